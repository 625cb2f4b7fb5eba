#!/usr/bin/env python3
"""Measures berth beside the floor and the peers, interleaved in one run, and compares with the targets.

Absolute times drift with the machine's mood; ratios of one run count. Peers are crun (a bare runtime), skopeo and curl from this
machine, and docker, podman and containerd through a script: `--peers SCRIPT`, called as `SCRIPT exec docker run ...`, so that they may
live in a root of their own."""

import argparse
import concurrent.futures
import ctypes
import glob
import json
import shlex
import os
import shutil
import signal
import statistics
import subprocess
import sys
import time

STATE = os.environ['BERTH_TEST_DIR']
REGISTRY = os.environ['BERTH_TEST_REGISTRY']
SOURCE = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
TARGET = os.path.join(os.environ.get('CARGO_TARGET_DIR', SOURCE + '/target'), 'release')
BERTHD, CTL = TARGET + '/berthd', TARGET + '/berthctl'
WORK = STATE + '/bench'
BUSYBOX, NGINX = f'{REGISTRY}/busybox:latest', f'{REGISTRY}/nginx:latest'
PORT = 20990
results, verdicts = {}, []


def say(text):
    print(text, flush=True)


def record(section, name, values, unit='ms'):
    """Keeps min, median and max of a list of measurements."""
    entry = {'unit': unit, 'min': min(values), 'median': statistics.median(values), 'max': max(values), 'count': len(values)}
    results.setdefault(section, {})[name] = entry
    say(f"  {name:<42} {entry['min']:>10.2f} {entry['median']:>10.2f} {entry['max']:>10.2f}  {unit}")
    return entry['median']


def target(what, value, limit, at_most=True):
    """A line for the summary: is the target met?"""
    met = value <= limit if at_most else value >= limit
    verdicts.append({'target': what, 'value': round(value, 3), 'limit': limit, 'met': met})


def ratio(section, name, over, under):
    """How often one measurement goes into the other, turn by turn: both were taken in the same moments."""
    return record(section, name, [a / b for a, b in zip(over, under)], 'x')


def median(section, name):
    return results.get(section, {}).get(name, {}).get('median')


def run(command, check=True, **options):
    done = subprocess.run(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
                          preexec_fn=namespace(command), **options)
    if check and done.returncode:
        raise RuntimeError(f"{' '.join(command)}: exit {done.returncode}\n{done.stdout}{done.stderr}")
    return done


LIBC = ctypes.CDLL(None, use_errno=True)
CLONE_NEWNS = 0x00020000
OWN_MOUNTS = os.open('/proc/self/ns/mnt', os.O_RDONLY)


class V1Mounts:
    """A mount namespace without the v2 tree of a hybrid layout: crun refuses such a layout. Elsewhere, the machine's own."""

    def __init__(self):
        self.holder, self.fd = None, OWN_MOUNTS
        if os.path.exists('/sys/fs/cgroup/unified'):
            self.holder = subprocess.Popen(['unshare', '--mount', 'sh', '-c', 'umount /sys/fs/cgroup/unified; echo ready; exec sleep 100000'],
                                           stdout=subprocess.PIPE)
            self.holder.stdout.readline()
            self.fd = os.open(f'/proc/{self.holder.pid}/ns/mnt', os.O_RDONLY)

    def end(self):
        if self.holder:
            self.holder.kill()
            self.holder.wait()


v1_mounts = V1Mounts()


def namespace(command):
    """What a child does before its execve: the same call for all, so that nobody pays alone."""
    fd = v1_mounts.fd if command[0] == 'crun' else OWN_MOUNTS
    return lambda: LIBC.setns(fd, CLONE_NEWNS)


def timed(command, check=True):
    """Wall milliseconds of a command, from its exec to its exit."""
    clock = subprocess.run([STATE + '/clock', *command], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
                           preexec_fn=namespace(command), text=True)
    code, taken = clock.returncode, float(clock.stdout or 'nan')
    if check and code:
        run(command)
        raise RuntimeError(f"{' '.join(command)}: exit {code}, but not when asked again")
    return taken


class Agent:
    """A release berthd with certificates, on loopback, with an empty store."""

    def __init__(self, name, network=''):
        self.dir, self.run = f'{WORK}/{name}', f'/run/berth-bench-{name}'
        for folder in [self.dir, self.run]:
            shutil.rmtree(folder, ignore_errors=True)
        os.makedirs(self.dir)
        pki = f'{WORK}/pki'
        if not os.path.exists(pki + '/crl.pem'):
            run([CTL, 'pki', '--dir', pki, 'init'])
            run([CTL, 'pki', '--dir', pki, 'issue', 'agent', 'agent', '--san', '127.0.0.1'])
            run([CTL, 'pki', '--dir', pki, 'issue', 'client', 'bench', '--role', 'admin'])
        with open(self.dir + '/berthd.toml', 'w') as file:
            file.write(f'''data_root = "{self.dir}/data"
run_root = "{self.run}"
[listen]
tcp = ["127.0.0.1:{PORT}"]
[tls]
ca = "{pki}/ca.pem"
cert = "{pki}/agents/agent.pem"
key = "{pki}/agents/agent.key"
[network]
bridge = "berthbench"
subnet = "10.212.0.1/20"
{network}
[containers]
cgroup_parent = "berth-bench"
[log]
level = "warn"
[registries."{REGISTRY}"]
plain_http = true
''')
        self.config = self.dir + '/ctl.toml'
        with open(self.config, 'w') as file:
            file.write(f'''current = "bench"
[contexts.bench]
endpoint = "https://127.0.0.1:{PORT}"
ca = "{pki}/ca.pem"
cert = "{pki}/clients/bench.pem"
key = "{pki}/clients/bench.key"
''')
        os.environ['BERTH_CONFIG'] = self.config
        self.process = None
        self.ready_ms = self.start()

    def start(self):
        """Milliseconds until the agent has answered."""
        begin = time.perf_counter()
        log = open(self.dir + '/log', 'a')
        self.process = subprocess.Popen([BERTHD, '--config', self.dir + '/berthd.toml'], stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        import socket
        while True:
            try:
                socket.create_connection(('127.0.0.1', PORT), timeout=1).close()
                break
            except OSError:
                if self.process.poll() is not None or time.perf_counter() - begin > 30:
                    raise RuntimeError('the agent does not come up:\n' + open(self.dir + '/log').read()[-2000:])
                time.sleep(0.001)
        ready = (time.perf_counter() - begin) * 1000
        run([CTL, 'version'])
        return ready

    def stop(self, how=signal.SIGTERM):
        self.process.send_signal(how)
        self.process.wait(60)

    def status(self, key):
        with open(f'/proc/{self.process.pid}/status') as file:
            for line in file:
                if line.startswith(key + ':'):
                    return int(line.split()[1])

    def clear(self):
        ids = run([CTL, 'ps', '-a', '-q', '--no-trunc']).stdout.split()
        for at in range(0, len(ids), 100):
            run([CTL, 'rm', '-f', *ids[at:at + 100]])

    def end(self):
        if self.process.poll() is None:
            self.clear()
            self.stop()
        subprocess.call(['ip', 'link', 'delete', 'berthbench'], stderr=subprocess.DEVNULL)
        for folder in [self.dir, self.run]:
            shutil.rmtree(folder, ignore_errors=True)


class Crun:
    """A bundle of busybox with true, as crun likes it."""

    def __init__(self):
        self.available = shutil.which('crun') is not None
        self.root, self.bundle = f'{WORK}/crun', f'{WORK}/bundle'
        if not self.available:
            return
        self.clear()
        shutil.rmtree(self.bundle, ignore_errors=True)
        os.makedirs(self.bundle + '/rootfs')
        unpack_busybox(self.bundle + '/rootfs')
        subprocess.check_call(['crun', 'spec'], cwd=self.bundle)
        self.write(['/bin/true'])
        probe = run(self.run('probe'), check=False)
        if probe.returncode:
            say(f'crun cannot run here: {probe.stderr.strip()[:200]}')
            self.available = False

    def clear(self):
        """Ends what a run that was cut short left behind: it would be "already there"."""
        for name in os.listdir(self.root) if os.path.isdir(self.root) else []:
            run(['crun', '--root', self.root, 'delete', '-f', name], check=False)
        shutil.rmtree(self.root, ignore_errors=True)
        until = time.monotonic() + 5
        # Containers whose state is lost are still in cgroups of these names.
        groups = [g for pattern in ['*/berth-bench-*', 'berth-bench-*'] for g in glob.glob('/sys/fs/cgroup/' + pattern)]
        while groups and time.monotonic() < until:
            for group in groups:
                try:
                    with open(group + '/cgroup.procs') as file:
                        for pid in file.read().split():
                            os.kill(int(pid), signal.SIGKILL)
                    os.rmdir(group)
                except (OSError, ProcessLookupError):
                    pass
            groups = [g for g in groups if os.path.isdir(g)]
            time.sleep(0.02)

    def write(self, arguments):
        with open(self.bundle + '/config.json') as file:
            config = json.load(file)
        config['process'].update(terminal=False, args=arguments)
        with open(self.bundle + '/config.json', 'w') as file:
            json.dump(config, file)

    def run(self, name, *options):
        return ['crun', '--root', self.root, 'run', *options, '--bundle', self.bundle, f'berth-bench-{name}']

    def delete(self, name):
        return ['crun', '--root', self.root, 'delete', '-f', f'berth-bench-{name}']


def unpack_busybox(folder):
    sys.path.insert(0, SOURCE + '/tests/fixtures')
    import images
    import io
    import tarfile
    with tarfile.open(fileobj=io.BytesIO(images.busybox_tar().bytes())) as tar:
        tar.extractall(folder)


class Peers:
    def __init__(self, script):
        self.prefix, self.names = [script, 'exec'] if script else [], []
        for name in ['docker', 'podman']:
            if (script or shutil.which(name)) and run([*self.prefix, name, 'version'], check=False).returncode == 0:
                pull = [*self.prefix, name, 'pull', *(['--tls-verify=false'] if name == 'podman' else []), BUSYBOX]
                if run(pull, check=False).returncode:
                    say(f'{name} is there, but cannot pull {BUSYBOX}: not measured')
                    continue
                tried = run(self.start(name, 'none'), check=False)
                if tried.returncode:
                    say(f'{name} is there, but cannot run a container here: not measured ({tried.stderr.strip().splitlines()[-1:]})')
                    continue
                self.names.append(name)

    def start(self, name, network):
        return [*self.prefix, name, 'run', '--rm', *(['--network', 'none'] if network == 'none' else []), BUSYBOX, 'true']

    def call(self, name, *arguments):
        return [*self.prefix, name, *arguments]


def start(options, crun, peers):
    agent = Agent('start')
    try:
        run([CTL, 'pull', '-q', BUSYBOX])
        lower = f'{WORK}/lower'
        shutil.rmtree(lower, ignore_errors=True)
        os.makedirs(lower)
        unpack_busybox(lower)
        berth = {n: [CTL, 'run', '--rm', '--network', n, BUSYBOX, 'true'] for n in ['none', 'bridge']}
        users = {f'{n}, --userns {u}': [CTL, 'run', '--rm', '--network', n, '--userns', u, BUSYBOX, 'true']
                 for n in ['none', 'bridge'] for u in ['host', 'auto']}
        values = {}
        for turn in range(options.runs + 2):
            def keep(name, value):
                if turn >= 2:
                    values.setdefault(name, []).append(value)
            floor = run([STATE + '/floor', lower, f'{WORK}/floor', '3', 'berth-bench-floor']).stdout.split()
            keep('floor', statistics.median(map(float, floor)) / 1000)
            for network, command in [*berth.items(), *users.items()]:
                keep(f'berth run, {network}', timed(command))
            keep('berthctl version (a call and no more)', timed([CTL, 'version']))
            if crun.available:
                keep('crun run', timed(crun.run('start')))
            if turn % 4 == 2:
                for name in peers.names:
                    for network in ['none', 'bridge']:
                        keep(f'{name} run, {network}', timed(peers.start(name, network)))
        for name, list_of in values.items():
            record('start', name, list_of)
        none, list_of = median('start', 'berth run, none'), values['berth run, none']
        target('run --rm true: times the floor', ratio('start', 'berth run, none / floor', list_of, values['floor']), 3)
        target('run --rm true: more with the bridge, ms', median('start', 'berth run, bridge') - none, 6)
        for network in ['none', 'bridge']:
            own, hosts = (values[f'berth run, {network}, --userns {u}'] for u in ['auto', 'host'])
            target(f'run --rm true, {network}: user namespace, times without', ratio('start', f'berth run, {network}, --userns auto / host', own, hosts), 1.15)
        if crun.available:
            target('run --rm true: of bare crun', ratio('start', 'berth run, none / crun run', list_of, values['crun run']), 1)
        for name, times in [('docker', 30), ('podman', 15)]:
            if name in peers.names:
                target(f'run --rm true: times faster than {name}', median('start', f'{name} run, none') / none, times, at_most=False)
    finally:
        agent.end()


def execs(options, crun, peers):
    agent = Agent('exec')
    try:
        run([CTL, 'run', '-d', '--name', 'bench', '--network', 'none', BUSYBOX, 'sleep', '100000'])
        if crun.available:
            crun.write(['/bin/sleep', '100000'])
            # It holds on to the pipes it was given.
            subprocess.check_call(crun.run('exec', '-d'), stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
                                  preexec_fn=namespace(['crun']))
        for name in peers.names:
            run(peers.call(name, 'run', '-d', '--rm', '--name', 'berth-bench', BUSYBOX, 'sleep', '100000'))
        values = {}
        for turn in range(options.runs + 2):
            commands = {'berth exec': [CTL, 'exec', 'bench', 'true']}
            if crun.available:
                commands['crun exec'] = ['crun', '--root', crun.root, 'exec', 'berth-bench-exec', '/bin/true']
            if turn % 4 == 2:
                commands.update({f'{n} exec': peers.call(n, 'exec', 'berth-bench', 'true') for n in peers.names})
            for name, command in commands.items():
                taken = timed(command)
                if turn >= 2:
                    values.setdefault(name, []).append(taken)
        for name, list_of in values.items():
            record('exec', name, list_of)
        berth = median('exec', 'berth exec')
        if crun.available:
            target('exec true: of bare crun', ratio('exec', 'berth exec / crun exec', values['berth exec'], values['crun exec']), 1)
        if 'docker' in peers.names:
            target('exec true: times faster than docker', median('exec', 'docker exec') / berth, 10, at_most=False)
    finally:
        if crun.available:
            run(crun.delete('exec'), check=False)
            crun.write(['/bin/true'])
        for name in peers.names:
            run(peers.call(name, 'rm', '-f', 'berth-bench'), check=False)
        agent.end()


def rate(options, crun, peers):
    """Containers started, then stopped and removed, per second, by so many callers at once."""
    agent = Agent('rate')
    count = options.rate_count

    def spread(callers, commands):
        """xargs keeps so many commands going: it forks cheaply, unlike an interpreter with threads."""
        lines = '\0'.join('exec ' + shlex.join(c) for c in commands)
        begin = time.perf_counter()
        done = subprocess.run(['xargs', '-0', '-P', str(callers), '-n', '1', 'sh', '-c'], input=lines, text=True,
                              stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, preexec_fn=namespace(commands[0]))
        taken = time.perf_counter() - begin
        if done.returncode:
            raise RuntimeError(f'{commands[0]}, {callers} callers: exit {done.returncode}')
        return len(commands) / taken

    try:
        run([CTL, 'pull', '-q', BUSYBOX])
        if crun.available:
            crun.write(['/bin/sleep', '100000'])
        for callers in [1, 4, 8]:
            values = {}

            def measure(what, commands):
                values.setdefault(what, []).append(spread(callers, commands))
            for turn in range(options.rate_rounds):
                names = [f'r{turn}-{n}' for n in range(count)]
                measure('berth starts', [[CTL, 'run', '-d', '--name', n, '--network', 'none', BUSYBOX, 'sleep', '100000'] for n in names])
                measure('berth stop+remove', [[CTL, 'rm', '-f', n] for n in names])
                if crun.available:
                    names = [f'rate-{n}' for n in range(count)]
                    measure('crun starts', [crun.run(n, '-d') for n in names])
                    measure('crun delete -f', [crun.delete(n) for n in names])
            for what, list_of in values.items():
                record('rate', f'{what}, {callers} callers', list_of, '1/s')
            if crun.available:
                for what, ours, theirs in [('starts', 'berth starts', 'crun starts'), ('stop+remove', 'berth stop+remove', 'crun delete -f')]:
                    found = ratio('rate', f'{what}, {callers} callers: berth / crun', values[ours], values[theirs])
                    if callers == 8:
                        target(f'{what} per second, 8 callers: of bare crun', found, 1, at_most=False)
            for name in peers.names:
                few = [f'berth-bench-{n}' for n in range(min(count, 24))]
                commands = [peers.call(name, 'run', '-d', '--name', n, '--network', 'none', BUSYBOX, 'sleep', '100000') for n in few]
                record('rate', f'{name} starts, {callers} callers', [spread(callers, commands)], '1/s')
                record('rate', f'{name} rm -f, {callers} callers', [spread(callers, [peers.call(name, 'rm', '-f', n) for n in few])], '1/s')
        if 'docker' in peers.names:
            target('starts per second, 8 callers: times docker', median('rate', 'berth starts, 8 callers') / median('rate', 'docker starts, 8 callers'), 20, at_most=False)
    finally:
        if crun.available:
            crun.clear()
            crun.write(['/bin/true'])
        agent.end()


def pss(pid):
    try:
        with open(f'/proc/{pid}/smaps_rollup') as file:
            for line in file:
                if line.startswith('Pss:'):
                    return int(line.split()[1])
    except OSError:
        pass
    return 0


def shims(agent):
    """Pids of the shims, as inspect tells them."""
    names = run([CTL, 'ps', '-q', '--no-trunc']).stdout.split()
    found = []
    for at in range(0, len(names), 50):
        text = run([CTL, 'inspect', '-o', 'json', *names[at:at + 50]]).stdout
        documents = json.loads(text)
        for document in documents if isinstance(documents, list) else [documents]:
            found.append(int(document['State']['ShimPid']))
    return found


def memory(options, crun, peers):
    agent = Agent('memory')
    count = options.memory_count
    try:
        run([CTL, 'pull', '-q', BUSYBOX])
        run([CTL, 'run', '--rm', '--network', 'none', BUSYBOX, 'true'])
        time.sleep(2)
        before = pss(agent.process.pid)
        with concurrent.futures.ThreadPoolExecutor(4) as pool:
            list(pool.map(lambda n: timed([CTL, 'run', '-d', '--name', f'm{n}', '--network', 'none', BUSYBOX, 'sleep', '100000']), range(count)))
        time.sleep(2)
        after, of_shims = pss(agent.process.pid), sum(map(pss, shims(agent)))
        record('memory', f'agent at rest before {count}, PSS', [before], 'kB')
        record('memory', f'agent with {count}, PSS', [after], 'kB')
        record('memory', f'all shims of {count}, PSS', [of_shims], 'kB')
        each = (of_shims + after - before) / count
        record('memory', 'an idle container', [each], 'kB')
        target('an idle container, kB of PSS', each, 250)
        ctl = [timed([CTL, 'ps']) for _ in range(options.runs)]
        target(f'berthctl ps with {count} containers, ms', record('list', f'berthctl ps, {count} running', ctl), 15)
        agent.stop(signal.SIGKILL)
        values = [agent.start()]
        for _ in range(4):
            agent.stop(signal.SIGKILL)
            values.append(agent.start())
        target(f'agent ready with {count} running, ms', record('agent', f'start to ready, {count} running', values), 100)
    finally:
        agent.end()


def stats(options, crun, peers):
    """What it costs the agent to measure many containers once a second, in percent of one CPU."""
    agent = Agent('stats')
    count, seconds, tick = options.stats_count, options.stats_seconds, os.sysconf('SC_CLK_TCK')

    def used():
        fields = open(f'/proc/{agent.process.pid}/stat').read().rsplit(')', 1)[1].split()
        return (int(fields[11]) + int(fields[12])) / tick

    def share():
        """Of one CPU, over some seconds."""
        before, begin = used(), time.perf_counter()
        time.sleep(seconds)
        return (used() - before) / (time.perf_counter() - begin) * 100

    watchers = []

    def watch():
        watchers.append(subprocess.Popen([CTL, 'stats', '-o', 'json'], stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL))
        time.sleep(3)
    try:
        run([CTL, 'pull', '-q', BUSYBOX])
        with concurrent.futures.ThreadPoolExecutor(4) as pool:
            list(pool.map(lambda n: timed([CTL, 'run', '-d', '--name', f's{n}', BUSYBOX, 'sleep', '100000']), range(count)))
        time.sleep(3)
        record('stats', f'agent, {count} containers, nobody watches', [share()], '%')
        watch()
        watched = record('stats', f'agent, {count} containers, once a second', [share()], '%')
        record('stats', 'open files of the agent', [len(os.listdir(f'/proc/{agent.process.pid}/fd'))], '')
        watch()
        watch()
        record('stats', f'agent, {count} containers, three watchers', [share()], '%')
        # The target is for 500 containers.
        target(f'stats of {count} containers once a second, % of a CPU', watched, 5 * count / 500)
    finally:
        for watcher in watchers:
            watcher.kill()
            watcher.wait()
        agent.end()


# Makes /t/fault, a program of x86-64 that writes where nothing is: the kernel says so in its log.
FAULT = ("printf '"
         r'\177ELF\2\1\1\0\0\0\0\0\0\0\0\0\2\0\76\0\1\0\0\0\170\0\100\0\0\0\0\0\100\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\100\000'
         r'\70\0\1\0\0\0\0\0\0\0\1\0\0\0\5\0\0\0\0\0\0\0\0\0\0\0\0\0\100\0\0\0\0\0\0\0\100\0\0\0\0\0\174\0\0\0\0\0\0\0\174\0\0\0'
         r'\0\0\0\0\0\20\0\0\0\0\0\000\61\300\211\0'
         "' >/t/fault; chmod +x /t/fault; ")

# Name, options and script of what takes all that it can get of one thing, each within limits of its own.
ATTACKS = [
    ('nothing', [], 'sleep 1000'),
    ('memory', ['--memory', '64m', '--memory-swap', '64m'], 'while :; do tail /dev/zero >/dev/null 2>&1; done'),
    ('forks', ['--pids-limit', '64'], 'f() { f | f & }; while :; do f; done 2>/dev/null'),
    ('disk', ['-v', 'small:/v'], 'while :; do cat /dev/zero >/v/x; rm /v/x; done 2>/dev/null'),
    ('inodes', ['--tmpfs', '/t:size=8m'], 'n=0; while :; do n=$((n+1)); : >/t/$n; done 2>/dev/null'),
    ('descriptors', ['--ulimit', 'nofile=1024', '--pids-limit', '32', '--tmpfs', '/t'],
     'cd /t; for n in $(seq 1100); do : >$n; done; while :; do tail -f * >/dev/null 2>&1 & sleep 0.1; done 2>/dev/null'),
    ('log', ['--log-opt', 'max-size=64k', '--log-opt', 'max-file=2'], 'while :; do echo aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa; done'),
    ("kernel's log", ['--userns', 'host', '--device', '/dev/kmsg'], 'while :; do echo "<7>flood" >/dev/kmsg; done 2>/dev/null'),
    ("kernel's log of faults", ['--tmpfs', '/t:exec'], FAULT + 'while :; do /t/fault; done 2>/dev/null'),
    ('processor', [], 'while :; do :; done & while :; do :; done & while :; do :; done'),
    ('processor, half of one', ['--cpus', '0.5'], 'while :; do :; done & while :; do :; done'),
]


def neighbours(options, crun, peers):
    """An idle container beside one that attacks: how late it wakes up, how fast it answers the host, and what an exec in it takes."""
    agent = Agent('neighbours')
    probe, seconds = STATE + '/latency', str(options.neighbour_seconds)
    try:
        run([CTL, 'pull', '-q', BUSYBOX])
        run([CTL, 'volume', 'create', '--opt', 'size=16m', 'small'])
        run([CTL, 'run', '-d', '--name', 'idle', '-v', f'{probe}:/latency:ro', BUSYBOX, '/latency', 'serve', '7777'])
        inspected = json.loads(run([CTL, 'inspect', 'idle']).stdout)
        networks = (inspected[0] if isinstance(inspected, list) else inspected)['NetworkSettings']
        address = networks.get('IPAddress') or next(iter(networks['Networks'].values()))['IPAddress']
        say(f"  {'microseconds beside':<26}{'wake-up p50':>12}{'p99':>9}{'to rest':>9}{'max':>9}{'request p50':>13}{'p99':>9}{'to rest':>9}{'max':>9}"
            f"{'lost':>6}{'exec ms':>9}")
        rest = None
        for name, more, script in ATTACKS:
            run([CTL, 'run', '-d', '--name', 'attacker', '--network', 'none', *more, BUSYBOX, 'sh', '-c', script])
            time.sleep(0.5)
            woken = run([CTL, 'exec', 'idle', '/latency', 'wake', seconds]).stdout.split()
            asked = run([probe, 'ask', address, '7777', seconds]).stdout.split()
            execs = statistics.median(timed([CTL, 'exec', 'idle', '/bin/true']) for _ in range(5))
            run([CTL, 'rm', '-f', 'attacker'])
            late = [float(woken[1]), float(asked[1])]
            rest = rest or late
            times = [f'x{one / alone:.1f}' if alone > 0 else '-' for one, alone in zip(late, rest)]
            say(f'  {name:<26}{woken[0]:>12}{woken[1]:>9}{times[0]:>9}{woken[2]:>9}{asked[0]:>13}{asked[1]:>9}{times[1]:>9}{asked[2]:>9}'
                f'{asked[3]:>6}{execs:>9.1f}')
            results.setdefault('neighbours', {})[name] = {
                'unit': 'us', 'wake': [float(n) for n in woken[:3]], 'request': [float(n) for n in asked[:3]], 'lost': int(asked[3]), 'exec_ms': execs}
            target(f'requests to a neighbour of: {name}, lost', int(asked[3]), 0)
    finally:
        agent.end()


def crowd(options, crun, peers):
    """Many containers on one bridge, with a published port each: does the last start cost what the first did, and do all ports answer?"""
    agent = Agent('crowd')
    count, callers = options.crowd_count, 4
    serve = [BUSYBOX, 'httpd', '-f', '-p', '80', '-h', '/etc']
    published = [CTL, 'run', '-d', '-p', '127.0.0.1::80', *serve]

    def hundred():
        """Starts per second, and milliseconds of each."""
        begin = time.perf_counter()
        with concurrent.futures.ThreadPoolExecutor(callers) as pool:
            each = list(pool.map(lambda _: timed(published), range(100)))
        return 100 / (time.perf_counter() - begin), each

    def answers(port):
        import urllib.request
        try:
            return urllib.request.urlopen(f'http://127.0.0.1:{port}/passwd', timeout=10).status == 200
        except OSError:
            return False

    def network_ms():
        """What a network and a port add to a start."""
        with_network, without = [], []
        for _ in range(options.runs):
            for values, command in [(with_network, published), (without, [CTL, 'run', '-d', '--network', 'none', *serve])]:
                values.append(timed(command))
        return with_network, without
    try:
        run([CTL, 'pull', '-q', BUSYBOX])
        timed(published)
        few = network_ms()
        rates = []
        for n in range(count // 100):
            rate, each = hundred()
            rates.append(rate)
            record('crowd', f'starts with a port, {n * 100} to {n * 100 + 99}', each)
        record('crowd', f'starts per second, {callers} callers, by hundreds', rates, '1/s')
        target(f'start rate of the last hundred of {count} over the first', rates[-1] / rates[0], 0.8, at_most=False)
        many = network_ms()
        for what, (with_network, without) in [('few', few), (count, many)]:
            record('crowd', f'start with network and port beside {what}', with_network)
            record('crowd', f'start without network beside {what}', without)
        added = median('crowd', f'start with network and port beside {count}') - median('crowd', f'start without network beside {count}')
        target(f'a network and a port in a start beside {count}, ms', added, 10)
        ports = [line.split('->')[0].rsplit(':', 1)[1] for line in run([CTL, 'ps', '--format', '{{.Ports}}']).stdout.split('\n') if '->' in line]
        begin = time.perf_counter()
        with concurrent.futures.ThreadPoolExecutor(16) as pool:
            good = sum(pool.map(answers, ports))
        record('crowd', f'all {len(ports)} ports asked', [time.perf_counter() - begin], 's')
        target(f'ports of {len(ports)} that answer', good, len(ports), at_most=False)
        record('crowd', 'agent RSS', [agent.status('VmRSS') / 1024], 'MB')
    finally:
        agent.end()


class Machine:
    """A network namespace that is joined to this host as another machine is: by a link with a subnet of its own."""

    HOST, OTHER = '198.18.212.1', '198.18.212.2'

    def __init__(self):
        subprocess.call(['ip', 'link', 'delete', 'berthbench-m'], stderr=subprocess.DEVNULL)
        self.holder = subprocess.Popen(['unshare', '--net', 'sh', '-c', 'echo ready; exec sleep 100000'], stdout=subprocess.PIPE)
        self.holder.stdout.readline()
        self.pid = self.holder.pid
        run(['ip', 'link', 'add', 'berthbench-m', 'type', 'veth', 'peer', 'name', 'eth0', 'netns', str(self.pid)])
        run(['ip', 'address', 'add', self.HOST + '/30', 'dev', 'berthbench-m'])
        run(['ip', 'link', 'set', 'berthbench-m', 'up'])
        for arguments in [['address', 'add', self.OTHER + '/30', 'dev', 'eth0'], ['link', 'set', 'eth0', 'up']]:
            run(['nsenter', '-t', str(self.pid), '-n', 'ip', *arguments])

    def end(self):
        self.holder.kill()
        self.holder.wait()
        subprocess.call(['ip', 'link', 'delete', 'berthbench-m'], stderr=subprocess.DEVNULL)


def gbits(pid, address, port, seconds):
    """What a client in the network namespace of a process sends to a server, as the server counts it."""
    said = run(['nsenter', '-t', str(pid), '-n', 'iperf3', '-c', address, '-p', str(port), '-t', str(seconds), '-J']).stdout
    return json.loads(said)['end']['sum_received']['bits_per_second'] / 1e9


def throughput(options, crun, peers):
    """TCP from container to container on the default bridge, and from another machine to a published port. iperf3 is this machine's own, in the
    containers' network namespaces, so that only the networks differ."""
    agent, machine, servers = Agent('throughput', 'publish_allow = ["any"]'), Machine(), []
    engines = {'berth': lambda *a: [CTL, *a]}
    if 'docker' in peers.names:
        engines['docker'] = lambda *a: peers.call('docker', *a)
    else:
        say('  docker is not there: measured alone')
    names, inside, ports = ['berth-bench-server', 'berth-bench-client'], {}, {e: 21990 + n for n, e in enumerate(engines)}
    try:
        for engine, call in engines.items():
            pids, address = [], None
            for name in names:
                run(call('rm', '-f', name), check=False)
                publish = ['-p', f'0.0.0.0:{ports[engine]}:5201'] if name == names[0] else []
                run(call('run', '-d', '--name', name, *publish, BUSYBOX, 'sleep', '100000'))
                shown = json.loads(run(call('inspect', *(['-o', 'docker'] if engine == 'berth' else []), name)).stdout)[0]
                pids.append(shown['State']['Pid'])
                address = address or shown['NetworkSettings']['Networks']['bridge']['IPAddress']
            servers.append(subprocess.Popen(['nsenter', '-t', str(pids[0]), '-n', 'iperf3', '-s', '-p', '5201'], stdin=subprocess.DEVNULL,
                                            stdout=subprocess.DEVNULL))
            inside[engine] = (pids[1], address)
        time.sleep(0.5)
        values = {}
        for turn in range(options.throughput_turns + 1):
            for engine, (client, address) in inside.items():
                for way, taken in [('container to container', gbits(client, address, 5201, options.throughput_seconds)),
                                   ('machine to port', gbits(machine.pid, Machine.HOST, ports[engine], options.throughput_seconds))]:
                    # The first turn warms up.
                    if turn:
                        values.setdefault((way, engine), []).append(taken)
        for (way, engine), list_of in sorted(values.items()):
            record('throughput', f'{engine} {way}', list_of, 'Gbit/s')
        for way in sorted({way for way, _ in values}):
            if (way, 'docker') in values:
                times = ratio('throughput', f'berth / docker {way}', values[way, 'berth'], values[way, 'docker'])
                target(f'throughput, {way}: of docker', times, 1.0, at_most=False)
    finally:
        for server in servers:
            server.kill()
            server.wait()
        machine.end()
        if 'docker' in engines:
            run(engines['docker']('rm', '-f', *names), check=False)
        agent.end()


def lists(options, crun, peers):
    agent = Agent('list')
    try:
        run([CTL, 'pull', '-q', BUSYBOX])
        with concurrent.futures.ThreadPoolExecutor(4) as pool:
            list(pool.map(lambda n: timed([CTL, 'create', '--network', 'none', BUSYBOX, 'true']), range(1000)))
        whole, nothing, cpu = [], [], []
        tick = os.sysconf('SC_CLK_TCK')
        for _ in range(options.runs):
            whole.append(timed([CTL, 'ps', '-a', '-o', 'json']))
            nothing.append(timed([CTL, 'ps']))

        def used():
            fields = open(f'/proc/{agent.process.pid}/stat').read().rsplit(')', 1)[1].split()
            return (int(fields[11]) + int(fields[12])) / tick * 1000
        begin = used()
        for _ in range(50):
            timed([CTL, 'ps', '-a', '-q'])
        cpu.append((used() - begin) / 50)
        record('list', 'berthctl ps -a -o json, 1000', whole)
        record('list', 'berthctl ps, none to show', nothing)
        target('list of 1,000 containers in the agent, ms of CPU', record('list', 'agent CPU of ps -a, 1000', cpu), 20)
    finally:
        agent.end()


def resting(options, crun, peers):
    agent = Agent('agent')
    try:
        starts = [agent.ready_ms]
        for _ in range(4):
            agent.stop()
            starts.append(agent.start())
        record('agent', 'start to ready, empty', starts)

        def wakeups():
            """Context switches by thread: one that ends meanwhile counts no more."""
            counts = {}
            for task in os.listdir(f'/proc/{agent.process.pid}/task'):
                with open(f'/proc/{agent.process.pid}/task/{task}/status') as file:
                    counts[task] = sum(int(line.split()[1]) for line in file if 'ctxt_switches' in line)
            return counts
        # It finds that it is quiet between 20 s and 40 s behind the last call.
        time.sleep(42)
        before = wakeups()
        time.sleep(10)
        switched = sum(count - before.get(task, 0) for task, count in wakeups().items())
        record('agent', 'wake-ups a second, idle', [switched / 10], '1/s')
        rss = record('agent', 'idle RSS', [agent.status('VmRSS') / 1024], 'MB')
        target('agent idle, MB RSS', rss, 20)
        target('agent idle, wake-ups a second', median('agent', 'wake-ups a second, idle'), 2)
    finally:
        agent.end()


def blobs(name):
    """Digests of an image's blobs."""
    accept = 'application/vnd.oci.image.manifest.v1+json'
    manifest = json.loads(run(['curl', '-sf', '-H', f'Accept: {accept}', f'http://{REGISTRY}/v2/{name}/manifests/latest']).stdout)
    return [manifest['config']['digest']] + [layer['digest'] for layer in manifest['layers']]


def pull(options, crun, peers):
    names = ['nginx'] + (['big', 'big-zstd'] if options.big else [])
    for name in names:
        digests = blobs(name)
        values = {}
        for turn in range(options.pulls):
            begin = time.perf_counter()
            config = ''.join(f'url = "http://{REGISTRY}/v2/{name}/blobs/{d}"\noutput = "{WORK}/curl-{n}"\n' for n, d in enumerate(digests))
            subprocess.run(['curl', '-sf', '--parallel', '-K', '-'], input=config, text=True, check=True)
            values.setdefault('curl of the blobs', []).append(time.perf_counter() - begin)
            for n in range(len(digests)):
                os.unlink(f'{WORK}/curl-{n}')
            if shutil.which('skopeo'):
                folder = f'{WORK}/skopeo'
                shutil.rmtree(folder, ignore_errors=True)
                begin = time.perf_counter()
                run(['skopeo', '--insecure-policy', 'copy', '-q', '--src-tls-verify=false', f'docker://{REGISTRY}/{name}', f'dir:{folder}'])
                values.setdefault('skopeo to a folder', []).append(time.perf_counter() - begin)
                shutil.rmtree(folder)
            agent = Agent('pull')
            try:
                values.setdefault('berth pull', []).append(timed([CTL, 'pull', '-q', f'{REGISTRY}/{name}']) / 1000)
                values.setdefault('peak RSS', []).append(agent.status('VmHWM') / 1024)
                values.setdefault('berth rmi', []).append(timed([CTL, 'rmi', f'{REGISTRY}/{name}']))
            finally:
                agent.end()
            for peer in peers.names:
                run(peers.call(peer, 'rmi', '-f', f'{REGISTRY}/{name}'), check=False)
                flags = ['--tls-verify=false'] if peer == 'podman' else []
                if turn == 0 or name == 'nginx':
                    values.setdefault(f'{peer} pull', []).append(timed(peers.call(peer, 'pull', '-q', *flags, f'{REGISTRY}/{name}')) / 1000)
                run(peers.call(peer, 'rmi', '-f', f'{REGISTRY}/{name}'), check=False)
        for what, list_of in values.items():
            record('pull', f'{name}: {what}', list_of, 'MB' if 'RSS' in what else 'ms' if 'rmi' in what else 's')
        berth = median('pull', f'{name}: berth pull')
        target(f'pull of {name}: peak MB RSS of the agent', max(values['peak RSS']), 150)
        if name == 'nginx':
            target('pull of nginx: times curl', berth / median('pull', 'nginx: curl of the blobs'), 2.5)
        else:
            for peer, times in [('podman', 4), ('docker', 10)]:
                if peer in peers.names:
                    target(f'pull of {name}: times faster than {peer}', median('pull', f'{name}: {peer} pull') / berth, times, at_most=False)
            # The client's own start and handshake are not the removal.
            target(f'removal of {name}, ms (the whole berthctl)', median('pull', f'{name}: berth rmi'), 50)


SECTIONS = {'start': start, 'exec': execs, 'rate': rate, 'memory': memory, 'pull': pull, 'list': lists, 'agent': resting,
            'stats': stats, 'crowd': crowd, 'throughput': throughput, 'neighbours': neighbours}


def keep(path):
    """The sections of this run in the place of their older ones; the others stay, each with its time."""
    now = time.strftime('%Y-%m-%dT%H:%M:%SZ', time.gmtime())
    try:
        with open(path) as file:
            kept = json.load(file)
    except (OSError, ValueError):
        kept = {}
    if kept.get('kernel') != os.uname().release or 'times' not in kept:
        kept = {'results': {}, 'targets': [], 'times': {}}
    measured = {v['target'] for v in verdicts}
    merged = {'kernel': os.uname().release, 'cpus': os.cpu_count(),
              'times': kept['times'] | {section: now for section in results},
              'results': kept['results'] | results,
              'targets': [v for v in kept['targets'] if v['target'] not in measured] + verdicts}
    with open(path + '.new', 'w') as file:
        json.dump(merged, file, indent=1)
    os.replace(path + '.new', path)


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('--sections', default=','.join(s for s in SECTIONS if s not in ['crowd', 'throughput', 'neighbours']))
    parser.add_argument('--runs', type=int, default=20)
    parser.add_argument('--pulls', type=int, default=5)
    parser.add_argument('--rate-count', type=int, default=60)
    parser.add_argument('--rate-rounds', type=int, default=3)
    parser.add_argument('--memory-count', type=int, default=100)
    parser.add_argument('--stats-count', type=int, default=int(os.environ.get('N', 100)), help='containers; also N in the environment')
    parser.add_argument('--stats-seconds', type=float, default=20, help='length of each of its measurements')
    parser.add_argument('--crowd-count', type=int, default=int(os.environ.get('CROWD', 1000)), help='hundreds of containers on one bridge; also CROWD')
    parser.add_argument('--throughput-turns', type=int, default=int(os.environ.get('TURNS', 10)), help='of each way and engine; also TURNS')
    parser.add_argument('--throughput-seconds', type=int, default=2, help='of each measurement')
    parser.add_argument('--neighbour-seconds', type=float, default=5, help='length of each of its measurements')
    parser.add_argument('--big', action='store_true', help='pull the 1 GB images, too')
    parser.add_argument('--peers', metavar='SCRIPT')
    parser.add_argument('--json', default=SOURCE + '/tests/bench/results/latest.json')
    options = parser.parse_args()
    # As an exception, so that what was started is ended.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    os.makedirs(WORK, exist_ok=True)
    crun, peers = Crun(), Peers(options.peers)
    failed = False
    say(f"{'':<44} {'min':>10} {'median':>10} {'max':>10}")
    for name in options.sections.split(','):
        if name not in SECTIONS:
            parser.error(f'no section {name!r}; there are {", ".join(SECTIONS)}')
        say(name)
        try:
            SECTIONS[name](options, crun, peers)
        except Exception as error:  # The other sections are still worth having.
            say(f'  {name} failed: {error}')
            failed = True
    say('\ntargets')
    for v in verdicts:
        say(f"  {'met   ' if v['met'] else 'MISSED'} {v['target']:<52} {v['value']:>9.2f}  (limit {v['limit']})")
    os.makedirs(os.path.dirname(options.json), exist_ok=True)
    keep(options.json)
    say(f'\n{options.json}')
    v1_mounts.end()
    shutil.rmtree(WORK, ignore_errors=True)
    sys.exit(1 if failed else 0)


if __name__ == '__main__':
    main()
