"""Generated from the .proto files of ternion.v1."""
