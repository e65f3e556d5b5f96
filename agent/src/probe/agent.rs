//! The agent on a backend: a connection, a line from it ([`synrail::control::agent_line`]).

use synrail::control::agent_line::{LINE_BYTES_MAX, Words, line};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use super::{Failed, Target, socket, tcp};

/// Asks it. What it sends behind its line is not read.
pub(super) async fn ask(target: &Target, send: &str) -> Result<Words, Failed> {
    let mut stream = tcp::connect(target).await?;
    target.wait_for("line");
    let lost = |error: std::io::Error| Failed::Backend(socket::words(&error));
    stream.write_all(send.as_bytes()).await.map_err(lost)?;
    let mut received = Vec::new();
    let whole = loop {
        if let Some(whole) = line(&received) {
            break whole;
        }
        if received.len() >= LINE_BYTES_MAX {
            return Err(format!("a line of more than {LINE_BYTES_MAX} bytes").into());
        }
        let room = LINE_BYTES_MAX - received.len();
        // What it closes behind is a line, too.
        if (&mut stream).take(room as u64).read_buf(&mut received).await.map_err(lost)? == 0 {
            break &received[..];
        }
    };
    if received.is_empty() {
        return Err("closed without a line".into());
    }
    if whole.is_empty() {
        return Err("an empty line".into());
    }
    let unknown = || format!("no word that is known: {}", String::from_utf8_lossy(whole)).into();
    Words::of(whole).ok_or_else(unknown)
}

#[cfg(test)]
mod tests {
    use std::{
        net::{Ipv4Addr, SocketAddr},
        sync::{
            Arc,
            atomic::{AtomicUsize, Ordering},
        },
        time::Duration,
    };

    use synrail::{
        config::Config,
        control::agent_reports::{Agents, Answer},
        model::{AgentHealth, AgentMode},
        state::State,
    };
    use tokio::{
        io::{AsyncBufReadExt as _, BufReader},
        net::TcpListener,
    };

    use super::*;
    use crate::probe::{self, Host};

    /// Asks the agent there, as lbagent does.
    async fn asked(to: SocketAddr, keys: &str) -> Result<Words, String> {
        let text = format!(
            "
            balancer = {{ name = 'lb1', address = '192.168.1.201', interfaces = ['eth0'] }}
            service = [ {{ name = 'web', vips = '10.0.0.1', protocols = 'tcp', ports = 80, table_size = 97,
                health = {{ kind = 'tcp', agent_port = {}, {keys} }},
                backend = [ {{ name = 's1', address = '192.168.1.1' }} ] }} ]",
            to.port()
        );
        let state = State::new(&Config::parse("test", &text).unwrap()).unwrap();
        let mut agents = Agents::new(1);
        agents.update(&state, Duration::ZERO);
        let mut ask = agents.next(Duration::ZERO).unwrap();
        ask.to = to;
        match probe::ask(&ask, &Host::default()).await {
            Answer::Words(words) => Ok(words),
            Answer::Nothing(reason) => Err(reason.as_str().to_owned()),
        }
    }

    /// An agent that sends this to each client, and again and again if it is `endless`; counts the bytes that were taken of it.
    async fn agent(says: &[u8], endless: bool) -> (SocketAddr, Arc<AtomicUsize>) {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let (address, sent) = (listener.local_addr().unwrap(), Arc::new(AtomicUsize::new(0)));
        let (says, counted) = (says.to_vec(), sent.clone());
        tokio::spawn(async move {
            loop {
                let (mut stream, _) = listener.accept().await.unwrap();
                while stream.write_all(&says).await.is_ok() && endless {
                    counted.fetch_add(says.len(), Ordering::Relaxed);
                }
            }
        });
        (address, sent)
    }

    async fn says(says: &[u8]) -> Result<Words, String> {
        asked(agent(says, false).await.0, "").await
    }

    #[tokio::test]
    async fn a_line_is_read_and_what_follows_it_is_not() {
        for line in [&b"50%, drain\n"[..], b"50% drain\r\n", b"drain 50%", b"DRAIN\t50%\ndown\n"] {
            let words = says(line).await.unwrap();
            assert_eq!((words.weight_percent.unwrap(), words.mode), (50, Some(AgentMode::Drain)));
            assert_eq!(words.health, None);
        }
        let (endless, sent) = agent(b"down #no database\n", true).await;
        let words = asked(endless, "").await.unwrap();
        assert_eq!((words.health, words.reason.unwrap().as_str()), (Some(AgentHealth::Down), "no database"));
        // The buffers of two sockets.
        assert!(sent.load(Ordering::Relaxed) < 32 << 20);
    }

    #[tokio::test]
    async fn what_is_sent_first_is_what_the_file_says() {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let address = listener.local_addr().unwrap();
        tokio::spawn(async move {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut line = String::new();
            BufReader::new(&mut stream).read_line(&mut line).await.unwrap();
            let answer = if line == "web\n" { "up\n" } else { "down\n" };
            stream.write_all(answer.as_bytes()).await.unwrap();
        });
        let words = asked(address, "agent_send = \"web\\n\"").await.unwrap();
        assert_eq!(words.health, Some(AgentHealth::Up));
    }

    #[tokio::test]
    async fn an_answer_without_a_known_word_says_why() {
        assert_eq!(says(b"").await, Err("closed without a line".into()));
        assert_eq!(says(b"\r\nup\r\n").await, Err("an empty line".into()));
        assert_eq!(
            says(b"SSH-2.0-OpenSSH_9.2\r\n").await,
            Err("no word that is known: SSH-2.0-OpenSSH_9.2".into())
        );
        assert_eq!(says(b"\0\0up\0\n").await, Err("no word that is known:   up".into()));
        let (garbage, sent) = agent(&[b'u'; 100_000], true).await;
        assert_eq!(asked(garbage, "").await, Err("a line of more than 1024 bytes".into()));
        assert!(sent.load(Ordering::Relaxed) < 32 << 20, "of what would be a gigabyte");
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let address = listener.local_addr().unwrap();
        assert_eq!(asked(address, "timeout_ms = 100").await, Err("no line within 100 ms".into()));
        drop(listener);
        assert_eq!(asked(address, "").await, Err("connection refused".into()));
    }
}
