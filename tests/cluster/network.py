"""Addresses and ports, and what the cluster changes in the machine's own network: made by up(), undone by down().

Pods hang on point-to-point links (CNI's `ptp`) rather than on a bridge, so that all their traffic is routed
and a Service's translation works whether or not the kernel filters bridged packets. Masquerading is one
nftables table of ours instead of CNI's iptables rules: deleting the table undoes it.
"""

from __future__ import annotations

import json
import random
import shutil
import socket
import subprocess
from pathlib import Path

from tests.cluster.processes import ClusterError

INTERFACE = "kc0"
"""Holds the node's address: the API server may not advertise a loopback one. A bridge without ports,
because kernels built for small machines often lack the dummy driver."""

NODE_ADDRESS = "10.245.0.1"
POD_RANGE = "10.244.0.0/24"
SERVICE_RANGE = "10.96.0.0/16"
API_SERVICE_ADDRESS = "10.96.0.1"
"""The first address of the service range: the Service `kubernetes`."""
DNS_ADDRESS = "10.96.0.10"

API_PORT = 16443
"""All ports are the usual ones shifted, so that another Kubernetes on the machine does not collide."""
ETCD_PORT = 12379
ETCD_PEER_PORT = 12380
KUBELET_PORT = 11250
KUBELET_HEALTH_PORT = 11248
PROXY_METRICS_PORT = 11249
PROXY_HEALTH_PORT = 11256
CONTROLLERS_PORT = 11257
SCHEDULER_PORT = 11259

_LIGHT_PORTS = range(20000, 30000)
"""Where light control planes listen, each on ports of its own."""

TABLE = "torchscript-cluster"
"""Our nftables table, family ip."""

PROXY_TABLES = (("ip", "kube-proxy"), ("ip6", "kube-proxy"))
"""What kube-proxy makes in its nftables mode and leaves behind."""

CNI_NETWORK = "torchscript-cluster"

_SYSCTLS = (
    "net/ipv4/ip_forward",
    "net/ipv4/conf/all/route_localnet",
    "net/ipv6/conf/all/forwarding",
    "net/netfilter/nf_conntrack_max",
    "net/netfilter/nf_conntrack_tcp_be_liberal",
    "net/netfilter/nf_conntrack_tcp_timeout_established",
    "net/netfilter/nf_conntrack_tcp_timeout_close_wait",
    "vm/overcommit_memory",
    "vm/panic_on_oom",
    "kernel/panic",
    "kernel/panic_on_oops",
    "kernel/keys/root_maxkeys",
    "kernel/keys/root_maxbytes",
)
"""Kernel settings that CNI, the kubelet or kube-proxy change on the machine."""


def up(memory: Path) -> None:
    """The node's address, forwarding and masquerading; `memory` keeps the kernel settings from before."""
    if not memory.exists():
        memory.parent.mkdir(parents=True, exist_ok=True)
        memory.write_text(json.dumps({name: value for name in _SYSCTLS if (value := _read(name)) is not None}))
    if not Path("/sys/class/net", INTERFACE).exists():
        _run("ip", "link", "add", INTERFACE, "type", "bridge")
    _run("ip", "address", "replace", f"{NODE_ADDRESS}/32", "dev", INTERFACE)
    _run("ip", "link", "set", INTERFACE, "up")
    Path("/proc/sys/net/ipv4/ip_forward").write_text("1")
    _run("nft", "-f", "-", stdin=_RULES)


_RULES = f"""\
table ip {TABLE}
delete table ip {TABLE}
table ip {TABLE} {{
  chain postrouting {{
    type nat hook postrouting priority srcnat; policy accept;
    ip saddr {POD_RANGE} ip daddr != {{ {POD_RANGE}, {NODE_ADDRESS} }} masquerade
  }}
}}
"""
"""Declared, deleted, declared again in one transaction: the same result whatever was there."""


def down(memory: Path) -> None:
    """Undoes up(), and what kube-proxy and CNI left."""
    for family, table in (("ip", TABLE), *PROXY_TABLES):
        if (family, table) in _tables():
            _run("nft", "delete", "table", family, table)
    for interface in _interfaces():
        _run("ip", "link", "delete", interface)
    for result in _cni_results():
        result.unlink()
    if memory.exists():
        for name, value in json.loads(memory.read_text()).items():
            if _read(name) != value:
                Path("/proc/sys", name).write_text(value)


def remains() -> list[str]:
    """What of ours is still in the machine's network, in words."""
    tables = {("ip", TABLE), *PROXY_TABLES} & _tables()
    return [
        *(f"nftables table {family} {name}" for family, name in sorted(tables)),
        *(f"network interface {name}" for name in _interfaces()),
        *(f"file {path}" for path in _cni_results()),
    ]


def resolvers() -> list[str]:
    """The machine's name servers that pods could use: not on loopback, and answering within a second.

    Without one, CoreDNS answers NXDOMAIN at once for outside names instead of letting pods hang.
    """
    try:
        lines = Path("/etc/resolv.conf").read_text().splitlines()
    except FileNotFoundError:
        return []
    servers = [line.split()[1] for line in lines if line.startswith("nameserver ") and len(line.split()) > 1]
    usable = [server for server in servers if not server.startswith("127.") and ":" not in server]
    return [server for server in usable if _answer(server, "") is not None]


def dns_ready() -> bool:
    """Whether pods' DNS knows the API server: kube-proxy, a pod and its link to the node all work then."""
    return _answer(DNS_ADDRESS, "kubernetes.default.svc.cluster.local") == 0


def check_ports_free() -> None:
    """Before the first start: says which port something else holds."""
    for port in (API_PORT, ETCD_PORT, ETCD_PEER_PORT, KUBELET_PORT, CONTROLLERS_PORT, SCHEDULER_PORT):
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("0.0.0.0", port))  # noqa: S104 - bound for a moment, never listened on
            except OSError as error:
                msg = f"port {port} is held by something else (`ss -ltnp`): {error}"
                raise ClusterError(msg) from error


def free_ports(count: int) -> list[int]:
    """Ports that nothing holds at this moment, all different.

    Below the range from which the kernel takes the near end of outgoing connections: a server that is
    restarted on its port would otherwise find it taken by some client now and then.
    """
    found: list[int] = []
    for port in random.sample(_LIGHT_PORTS, len(_LIGHT_PORTS)):
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
        found.append(port)
        if len(found) == count:
            return found
    msg = f"no {count} free ports among {_LIGHT_PORTS}"
    raise ClusterError(msg)


def _answer(server: str, name: str) -> int | None:
    """The code (0: found, 3: no such name) of a server's answer to a query for an address; None without one."""
    labels = b"".join(bytes([len(label)]) + label.encode() for label in name.split(".") if label)
    query = b"\x54\x53\x01\x00\x00\x01\x00\x00\x00\x00\x00\x00" + labels + b"\x00\x00\x01\x00\x01"
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.settimeout(1)
        try:
            probe.connect((server, 53))
            probe.send(query)
            answer = probe.recv(512)
        except OSError:
            return None
    return answer[3] & 0x0F if answer[:2] == query[:2] else None


def _interfaces() -> list[str]:
    """Ours, and the node's ends of pods' links: those that carry a route into the pod range."""
    routes = json.loads(_run("ip", "-json", "route", "show", "root", POD_RANGE) or "[]")
    devices = {route["dev"] for route in routes if route["dev"].startswith("veth")}
    own = {INTERFACE} if Path("/sys/class/net", INTERFACE).exists() else set()
    return sorted(devices | own)


def _cni_results() -> list[Path]:
    """CNI's records of our pods' attachments, which have no setting for their place."""
    folder = Path("/var/lib/cni/results")
    pods = {path.name.removeprefix(f"{CNI_NETWORK}-").split("-")[0] for path in folder.glob(f"{CNI_NETWORK}-*")}
    return sorted(path for pod in pods for path in folder.glob(f"*-{pod}-*"))


def _tables() -> set[tuple[str, str]]:
    if shutil.which("nft") is None:
        return set()  # nothing was ever installed, as when `down` is the first command
    listed = json.loads(_run("nft", "-json", "list", "tables"))["nftables"]
    return {(item["table"]["family"], item["table"]["name"]) for item in listed if "table" in item}


def _read(sysctl: str) -> str | None:
    try:
        return Path("/proc/sys", sysctl).read_text().strip()
    except OSError:
        return None  # the kernel does not have it, or not yet


def _run(*command: str, stdin: str = "") -> str:
    done = subprocess.run(command, input=stdin, capture_output=True, text=True, check=False)
    if done.returncode:
        msg = f"`{' '.join(command)}` failed: {done.stderr.strip()}"
        raise ClusterError(msg)
    return done.stdout
