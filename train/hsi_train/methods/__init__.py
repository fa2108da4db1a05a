"""One file per published method; the file's name is the method's."""
