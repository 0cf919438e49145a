"""TLS for sockets and servers. People name `ServerTls`; the wire itself is in `wires/tls`."""
