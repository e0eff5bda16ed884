"""How large a script may be. Every bound ends with a ParseError that says what to write instead, so that neither the
parser nor any later walk over the tree can be driven into deep recursion or long run times.
"""

MAX_SCRIPT_CHARACTERS = 262_144
MAX_TOKENS = 20_000
MAX_BRACKET_DEPTH = 32
MAX_BLOCK_DEPTH = 64
MAX_EXPRESSION_DEPTH = 200
MAX_NESTED_WHERE = 8
MAX_DETAIL_CHARACTERS = 240
MAX_SEGMENT_NAME_CHARACTERS = 128
