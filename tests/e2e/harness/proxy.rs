//! A registry that misbehaves: passes requests on to the real one and spoils the answers that a rule names.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

#[derive(Clone, Debug)]
pub enum Fault {
    /// Closes the connection behind so many bytes of the body.
    CutAt(usize),
    /// One bit of the body's middle is turned.
    Flip,
    /// Fewer bytes than the manifest says, honestly announced.
    Shorter,
    /// More bytes than the manifest says.
    Longer,
    /// Another status, with these headers, without a body.
    Status(u16, &'static str),
    /// The head and half of the body, then nothing until the test ends.
    Stall,
    /// Answers whole bodies to range requests.
    NoRange,
}

#[derive(Clone, Debug)]
pub struct Rule {
    /// Part of the request's path.
    pub path: String,
    pub fault: Fault,
    /// How often, before it behaves again.
    pub times: usize,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Request {
    pub method: String,
    pub path: String,
    pub range: Option<String>,
    pub authorization: Option<String>,
}

#[derive(Default)]
struct State {
    rules: Vec<Rule>,
    requests: Vec<Request>,
}

pub struct Proxy {
    pub address: String,
    state: Arc<Mutex<State>>,
    stop: Arc<AtomicBool>,
}

impl Proxy {
    pub fn start(upstream: &str) -> Proxy {
        let listener = TcpListener::bind("127.0.0.1:0").expect("bind");
        let address = listener.local_addr().expect("address").to_string();
        let (state, stop) = (Arc::new(Mutex::new(State::default())), Arc::new(AtomicBool::new(false)));
        let (upstream, shared, stopped) = (upstream.to_owned(), state.clone(), stop.clone());
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                if stopped.load(Ordering::Relaxed) {
                    return;
                }
                let (upstream, shared, stopped) = (upstream.clone(), shared.clone(), stopped.clone());
                let Ok(stream) = stream else { continue };
                // A caller that hangs up early is what many tests do.
                std::thread::spawn(move || drop(serve(stream, &upstream, &shared, &stopped)));
            }
        });
        Proxy { address, state, stop }
    }

    pub fn rule(&self, path: &str, times: usize, fault: Fault) {
        self.state.lock().expect("state").rules.push(Rule { path: path.to_owned(), fault, times });
    }

    pub fn behave(&self) {
        self.state.lock().expect("state").rules.clear();
    }

    pub fn requests(&self) -> Vec<Request> {
        self.state.lock().expect("state").requests.clone()
    }

    pub fn forget(&self) {
        self.state.lock().expect("state").requests.clear();
    }

    pub fn image(&self, name: &str) -> String {
        format!("{}/{name}:latest", self.address)
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        let _ = TcpStream::connect(&self.address);
    }
}

fn serve(stream: TcpStream, upstream: &str, shared: &Mutex<State>, stop: &AtomicBool) -> std::io::Result<()> {
    let mut reader = BufReader::new(stream.try_clone()?);
    let mut stream = stream;
    loop {
        let Some((head, _)) = read_head(&mut reader)? else { return Ok(()) };
        let mut words = head[0].split(' ');
        let (method, path) = (words.next().unwrap_or_default().to_owned(), words.next().unwrap_or_default().to_owned());
        let field = |name: &str| {
            head.iter().find_map(|line| {
                line.split_once(':').filter(|(k, _)| k.eq_ignore_ascii_case(name)).map(|(_, v)| v.trim().to_owned())
            })
        };
        let request = Request {
            method: method.clone(),
            path: path.clone(),
            range: field("range"),
            authorization: field("authorization"),
        };
        let fault = {
            let mut state = shared.lock().expect("state");
            state.requests.push(request.clone());
            let rule = state.rules.iter_mut().find(|rule| rule.times > 0 && path.contains(&rule.path));
            rule.map(|rule| {
                rule.times -= 1;
                rule.fault.clone()
            })
        };
        if let Some(Fault::Status(status, headers)) = fault {
            write!(stream, "HTTP/1.1 {status} Spoiled\r\nContent-Length: 0\r\n{headers}\r\n")?;
            continue;
        }
        let mut up = TcpStream::connect(upstream)?;
        let drop_range = matches!(fault, Some(Fault::NoRange));
        write!(up, "{}\r\n", head[0])?;
        for line in &head[1..] {
            let name = line.split(':').next().unwrap_or_default().to_ascii_lowercase();
            if name != "connection" && name != "accept-encoding" && !(drop_range && name == "range") {
                write!(up, "{line}\r\n")?;
            }
        }
        write!(up, "Connection: close\r\n\r\n")?;
        let mut answer = BufReader::new(up);
        let Some((mut answer_head, length)) = read_head(&mut answer)? else { return Ok(()) };
        let mut body = Vec::new();
        if method != "HEAD" {
            match length {
                Some(length) => drop(answer.take(length).read_to_end(&mut body)?),
                None => drop(answer.read_to_end(&mut body)?),
            }
        }
        let announced = length.unwrap_or(body.len() as u64);
        let mut send = body.len();
        let mut total = announced;
        match fault {
            Some(Fault::CutAt(count)) => send = count.min(body.len()),
            Some(Fault::Flip) if !body.is_empty() => {
                let middle = body.len() / 2;
                body[middle] ^= 1;
            }
            Some(Fault::Shorter) if body.len() > 10 => (send, total) = (body.len() - 10, announced - 10),
            Some(Fault::Longer) => {
                body.extend([0; 10]);
                (send, total) = (body.len(), announced + 10);
            }
            Some(Fault::Stall) => send /= 2,
            _ => {}
        }
        answer_head.retain(|line| {
            !matches!(
                line.split(':').next().unwrap_or_default().to_ascii_lowercase().as_str(),
                "connection" | "content-length"
            )
        });
        write!(stream, "{}\r\nContent-Length: {total}\r\n\r\n", answer_head.join("\r\n"))?;
        stream.write_all(&body[..send])?;
        stream.flush()?;
        match fault {
            Some(Fault::CutAt(_)) => return Ok(()),
            Some(Fault::Stall) => {
                while !stop.load(Ordering::Relaxed) {
                    std::thread::sleep(Duration::from_millis(50));
                }
                return Ok(());
            }
            _ => {}
        }
    }
}

/// Lines of a head without their ends, and the Content-Length. None: the other side has closed.
fn read_head(reader: &mut impl BufRead) -> std::io::Result<Option<(Vec<String>, Option<u64>)>> {
    let mut lines = Vec::new();
    loop {
        let mut line = String::new();
        if reader.read_line(&mut line)? == 0 {
            return Ok(None);
        }
        let line = line.trim_end().to_owned();
        if line.is_empty() {
            break;
        }
        lines.push(line);
    }
    let length = lines.iter().find_map(|l| {
        l.split_once(':')
            .filter(|(k, _)| k.eq_ignore_ascii_case("content-length"))
            .and_then(|(_, v)| v.trim().parse().ok())
    });
    Ok(Some((lines, length)))
}
