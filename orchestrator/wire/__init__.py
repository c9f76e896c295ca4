"""What goes over a wire and how: messages, their encoding, CURVE sockets, the state of links, channels."""
