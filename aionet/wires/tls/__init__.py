"""TLS as a wire over any other wire."""
