"""What lays TLS over a connection, what outlives one, and what a server shows. People name `ServerTls`."""
