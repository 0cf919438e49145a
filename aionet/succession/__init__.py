"""Hot restart: a program takes another's listening sockets; how they meet, what they say, who may ask."""
