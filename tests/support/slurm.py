"""A Slurm cluster of two nodes on this machine, with daemons, keys and state of its own in a temporary folder."""

import getpass
import os
import secrets
import shutil
import signal
import socket
import subprocess
import time
from contextlib import suppress
from pathlib import Path

CONFIGURATION = """
ClusterName=kdbench
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={controller}
SlurmUser={user}
SlurmdUser={user}
AuthType=auth/munge
# How long a requeued job waits before it starts again, beside what it names: the life of a credential.
AuthInfo=socket={folder}/munge.socket,cred_expire=5
CryptoType=crypto/munge
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool-%n
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd-%n.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd-%n.log
SlurmdParameters=config_overrides
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
MpiDefault=none
SwitchType=switch/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
SchedulerParameters=sched_interval=2,bf_interval=2,sched_min_interval=0
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
ReturnToService=2
SlurmdTimeout=12
KillWait=2
CompleteWait=0
MinJobAge=60
NodeName=node1 NodeHostname={host} NodeAddr=127.0.0.1 Port={node1} CPUs=1 RealMemory=4000 State=UNKNOWN
NodeName=node2 NodeHostname={host} NodeAddr=127.0.0.1 Port={node2} CPUs=1 RealMemory=4000 State=UNKNOWN
PartitionName=short Nodes=node[1-2] Default=YES MaxTime=60 State=UP PriorityTier=1
PartitionName=urgent Nodes=node[1-2] MaxTime=60 State=UP PriorityTier=10
PartitionName=tiny Nodes=node[1-2] MaxTime=1 State=UP PriorityTier=1
"""


class Cluster:
    """Two nodes of one core, a controller, and munge. `environment` makes the commands of Slurm ask this cluster."""

    def __init__(self, folder: Path):
        self.folder = folder
        self.configuration = folder / "slurm.conf"
        self.environment = {**os.environ, "SLURM_CONF": str(self.configuration)}
        self.daemons: dict[str, subprocess.Popen] = {}

    def start(self) -> None:
        """Start all daemons. RuntimeError, with the end of the logs, if the nodes do not become idle."""
        for name in ("state", "spool-node1", "spool-node2"):
            (self.folder / name).mkdir(parents=True)
        self.folder.chmod(0o755)
        ports = dict(zip(("controller", "node1", "node2"), free_ports(3), strict=True))
        self.configuration.write_text(CONFIGURATION.format(
            folder=self.folder, host=socket.gethostname(), user=getpass.getuser(), **ports))
        key = self.folder / "munge.key"
        key.write_bytes(secrets.token_bytes(128))
        key.chmod(0o400)
        self._daemon("munged", "munged", "--foreground", "--force", f"--key-file={key}",
                     f"--socket={self.folder}/munge.socket", f"--pid-file={self.folder}/munged.pid",
                     f"--seed-file={self.folder}/munged.seed", f"--log-file={self.folder}/munged.log")
        self.start_controller()
        self.start_node("node1")
        self.start_node("node2")
        self.wait(lambda: self.states() == {"idle"}, 30, "two idle nodes")

    def start_controller(self) -> None:
        self._daemon("slurmctld", "slurmctld", "-D", "-i", "-f", str(self.configuration))

    def start_node(self, name: str) -> None:
        self._daemon(name, "slurmd", "-D", "-N", name, "-f", str(self.configuration))

    def kill(self, name: str) -> None:
        """Kill a daemon; of a node also all that runs on it, at once, as if its power were cut."""
        daemon = self.daemons.pop(name)
        daemon.kill()
        daemon.wait()
        for process in self.processes_on(name) if name.startswith("node") else ():
            with suppress(OSError):
                os.kill(process, signal.SIGKILL)

    def processes_on(self, node: str) -> list[int]:
        """The processes of jobs on a node: first those that look after a job, and would tell of its end."""
        guards, others = [], []
        for folder in Path("/proc").glob("[0-9]*"):
            with suppress(OSError):
                if f"SLURMD_NODENAME={node}".encode() in (folder / "environ").read_bytes().split(b"\0"):
                    if f"SLURM_CONF={self.configuration}".encode() in (folder / "environ").read_bytes().split(b"\0"):
                        others.append(int(folder.name))
                elif b"slurmstepd" in (folder / "cmdline").read_bytes() and any(
                        file.readlink() == self.folder / f"slurmd-{node}.log" for file in (folder / "fd").iterdir()):
                    guards.append(int(folder.name))
        return guards + others

    def call(self, *command: str, check: bool = True) -> str:
        """What a command of Slurm prints."""
        return subprocess.run(command, env=self.environment, capture_output=True, text=True, check=check,
                              timeout=30).stdout

    def states(self) -> set[str]:
        """The states of the nodes."""
        return {line.split()[1] for line in self.call("sinfo", "-h", "-N", "-p", "short", "-o", "%N %t",
                                                      check=False).splitlines()}

    def jobs(self, state: str) -> list[str]:
        """The ids of the jobs in a state, such as RUNNING."""
        return self.call("squeue", "-h", "-r", "-t", state, "-o", "%i", check=False).split()

    def log(self) -> str:
        """What the controller noted."""
        return (self.folder / "slurmctld.log").read_text()

    def wait(self, condition, seconds: float, what: str) -> None:
        deadline = time.monotonic() + seconds
        while not condition():
            if time.monotonic() > deadline:
                logs = "\n".join(f"--- {log.name}\n{log.read_text()[-2000:]}" for log in self.folder.glob("*.log"))
                raise RuntimeError(f"waited {seconds:g} s for {what}\n{logs}")
            time.sleep(0.3)

    def stop(self) -> None:
        for name in ("node1", "node2", "slurmctld", "munged"):
            if name in self.daemons:
                self.kill(name)

    def _daemon(self, name: str, program: str, *arguments: str) -> None:
        with (self.folder / f"{name}.out").open("ab") as out:
            self.daemons[name] = subprocess.Popen([shutil.which(program) or f"/usr/sbin/{program}", *arguments],
                                                  env=self.environment, stdout=out, stderr=out, start_new_session=True)


def free_ports(count: int) -> list[int]:
    sockets = [socket.socket() for _ in range(count)]
    for one in sockets:
        one.bind(("127.0.0.1", 0))
    ports = [one.getsockname()[1] for one in sockets]
    for one in sockets:
        one.close()
    return ports
