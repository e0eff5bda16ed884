#!/bin/sh
# One authority for the cluster and a certificate for each of its hosts, for server and client use.
#
#   make-certificates.sh DIRECTORY NAME[,OTHER NAME OR ADDRESS...] ...
#
# The names are in subjectAltName only: with users, etcd refuses certificates of clients that have a common name.
#
# Each argument is a host: the name of its files, then what else it is reached by. An authority that is there already is used
# again, so hosts can be added later. Keep ca-key.pem away from the hosts.
set -eu
umask 077
directory=${1:?a directory for the files}
shift
mkdir -p "$directory"
cd "$directory"

if [ ! -e ca-key.pem ]; then
    openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 3650 \
        -subj "/CN=openset cluster" -addext "basicConstraints=critical,CA:TRUE" \
        -addext "keyUsage=critical,keyCertSign,cRLSign" -keyout ca-key.pem -out ca.pem 2>/dev/null
fi

for host in "$@"; do
    name=${host%%,*}
    names=""
    for each in $(printf '%s' "$host" | tr ',' ' ') 127.0.0.1; do
        case $each in
        *:* | *[!0-9.]*) kind=DNS ;;
        *) kind=IP ;;
        esac
        case $each in *:*) kind=IP ;; esac
        names="$names${names:+,}$kind:$each"
    done
    openssl req -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -subj "/O=openset/OU=$name" \
        -keyout "$name-key.pem" -out "$name.csr" 2>/dev/null
    printf 'subjectAltName=%s\nextendedKeyUsage=serverAuth,clientAuth\nbasicConstraints=CA:FALSE\n' "$names" >"$name.ext"
    openssl x509 -req -in "$name.csr" -CA ca.pem -CAkey ca-key.pem -CAcreateserial -days 825 \
        -extfile "$name.ext" -out "$name.pem" 2>/dev/null
    rm "$name.csr" "$name.ext"
    chmod 644 "$name.pem" ca.pem
    echo "$directory/$name.pem for $names"
done
