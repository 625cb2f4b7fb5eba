//! Another machine: a network namespace on the other side of a link of the host's.

use super::slot::Slot;
use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};

/// Answers each TCP connection with the caller's address.
const SERVE: &str = r#"
import socket, sys
s = socket.create_server(('::', int(sys.argv[1])), family=socket.AF_INET6, dualstack_ipv6=True)
print('ready', flush=True)
while True:
    c, a = s.accept()
    c.sendall((a[0].removeprefix('::ffff:') + '\n').encode())
    c.close()
"#;

/// The same as a page.
const SERVE_PAGE: &str = r#"
import http.server, socket, sys
class Server(http.server.ThreadingHTTPServer):
    address_family = socket.AF_INET6
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        page = (self.client_address[0].removeprefix('::ffff:') + '\n').encode()
        self.send_response(200)
        self.send_header('Content-Length', str(len(page)))
        self.end_headers()
        self.wfile.write(page)
    def log_message(self, *words):
        pass
s = Server(('::', int(sys.argv[1])), Handler)
print('ready', flush=True)
s.serve_forever()
"#;

pub struct Outside {
    ns: String,
    link: String,
    children: Vec<Child>,
}

fn ip(line: &str) {
    let status = Command::new("ip").args(line.split(' ')).status().expect("ip");
    assert!(status.success(), "ip {line}");
}

impl Outside {
    /// The host has `host` on the link, the other one `there`: addresses with prefix lengths, of both families.
    pub fn new(slot: &Slot, host: &[String], there: &[String]) -> Outside {
        let outside = Outside {
            ns: format!("berth-out-{}", slot.number),
            link: format!("bout{}", slot.number),
            children: Vec::new(),
        };
        outside.delete();
        let Outside { ns, link, .. } = &outside;
        ip(&format!("netns add {ns}"));
        ip(&format!("link add {link} type veth peer name far netns {ns}"));
        let nodad = |address: &str| if address.contains(':') { " nodad" } else { "" };
        for address in host {
            ip(&format!("addr add {address} dev {link}{}", nodad(address)));
        }
        ip(&format!("link set {link} up"));
        for address in there {
            ip(&format!("-n {ns} addr add {address} dev far{}", nodad(address)));
        }
        ip(&format!("-n {ns} link set far up"));
        ip(&format!("-n {ns} link set lo up"));
        outside
    }

    /// A way from there to a network behind the host.
    pub fn route(&self, to: &str, by: &str) {
        ip(&format!("-n {} route add {to} via {by}", self.ns));
    }

    /// Serves there on a port: who asks hears who it is.
    pub fn serve(&mut self, port: u16) {
        self.run(SERVE, port);
    }

    /// Serves a page there: who fetches it reads who it is.
    pub fn serve_page(&mut self, port: u16) {
        self.run(SERVE_PAGE, port);
    }

    /// Fetches the page of a host with HTTP/1.0; `None`: nobody answers.
    pub fn fetches(&self, host: &str, port: u16) -> Option<String> {
        let script =
            format!("exec 3<>/dev/tcp/{host}/{port} && printf 'GET / HTTP/1.0\\r\\n\\r\\n' >&3 && timeout 3 cat <&3");
        let output = Command::new("ip")
            .args(["netns", "exec", &self.ns, "timeout", "5", "bash", "-c", &script])
            .stderr(Stdio::null())
            .output()
            .expect("ip netns exec");
        output.status.success().then(|| String::from_utf8_lossy(&output.stdout).into_owned())
    }

    fn run(&mut self, program: &str, port: u16) {
        let mut server = Command::new("ip")
            .args(["netns", "exec", &self.ns, "python3", "-c", program, &port.to_string()])
            .stdout(Stdio::piped())
            .spawn()
            .expect("ip netns exec");
        let mut line = String::new();
        BufReader::new(server.stdout.take().expect("stdout")).read_line(&mut line).expect("a line");
        assert_eq!(line, "ready\n");
        self.children.push(server);
    }

    /// What bash finds there behind a TCP port of another; `None`: nobody answers.
    pub fn asks(&self, address: &str, port: u16) -> Option<String> {
        let script = format!("timeout 3 cat < /dev/tcp/{address}/{port}");
        let output = Command::new("ip")
            .args(["netns", "exec", &self.ns, "timeout", "5", "bash", "-c", &script])
            .stderr(Stdio::null())
            .output()
            .expect("ip netns exec");
        output.status.success().then(|| String::from_utf8_lossy(&output.stdout).trim().to_owned())
    }

    fn delete(&self) {
        for line in [vec!["netns", "delete", &self.ns], vec!["link", "delete", &self.link]] {
            let _ = Command::new("ip").args(line).stderr(Stdio::null()).status();
        }
    }
}

impl Drop for Outside {
    fn drop(&mut self) {
        for child in &mut self.children {
            let _ = child.kill();
            let _ = child.wait();
        }
        self.delete();
    }
}
