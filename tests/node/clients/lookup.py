"""Python's socket module, which uses the C library."""

import socket
import sys

for question in sys.argv[1:]:
    kind, name = question.split("=", 1)
    try:
        if kind == "host":
            found = {item[4][0] for item in socket.getaddrinfo(name, None, type=socket.SOCK_STREAM)}
        else:
            found = {socket.gethostbyaddr(name)[0]}
        result = " ".join(sorted(found))
    except socket.gaierror as error:
        result = "-" if error.errno in (socket.EAI_NONAME, socket.EAI_NODATA) else f"!{error}"
    except socket.herror as error:
        result = "-" if error.errno == 1 else f"!{error}"
    print(f"{question}\t{result}", flush=True)
