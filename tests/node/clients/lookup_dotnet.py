"""System.Net.Dns of .NET, whose runtime this program loads from the packages in its first argument."""

import sys
import tempfile
from pathlib import Path

packages = sys.argv[1]
sys.path.insert(0, packages)

from clr_loader import get_coreclr
from pythonnet import set_runtime

CONFIG = """{"runtimeOptions": {
    "framework": {"name": "Microsoft.NETCore.App", "version": "3.1.0"},
    "configProperties": {"System.Globalization.Invariant": true}
}}"""

with tempfile.NamedTemporaryFile("w", suffix=".json") as config:
    config.write(CONFIG)
    config.flush()
    root = Path(packages) / "dotnetcore2" / "bin"
    set_runtime(get_coreclr(runtime_config=config.name, dotnet_root=str(root)))
    import clr

clr.AddReference("System.Net.NameResolution")
from System.Net import Dns, IPAddress
from System.Net.Sockets import SocketException

for question in sys.argv[2:]:
    kind, name = question.split("=", 1)
    try:
        if kind == "host":
            found = {address.ToString() for address in Dns.GetHostAddresses(name)}
        else:
            found = {Dns.GetHostEntry(IPAddress.Parse(name)).HostName} - {name}
        result = " ".join(sorted(found)) or "-"
    except SocketException as error:
        code = error.SocketErrorCode.ToString()
        result = "-" if code in ("HostNotFound", "NoData") else f"!{code}"
    print(f"{question}\t{result}", flush=True)
