"""What lays TLS over a connection, and keeps what outlives one."""
