"""Re-eventing: triggers that run after inserts and at set times, what they emit, and who is told."""
