"""Our sockets and servers in the shapes that other libraries expect, one module per library."""
