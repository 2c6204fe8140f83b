"""Content Credentials (C2PA): the signed statement in a file of how it was made, and what such a statement says.

    identity    the certificate and the key that sign; a pair of its own is made where none is configured
    claims      what is stated of a file
    ingredients an upload as a part of the statement
    signing     puts the statement into the file
    report      what a file says of its making
    parsing     reads the report of a file
    reading     runs `parsing` in a confined child process

The API process never loads the library `c2pa`: workers and the child do.
"""
