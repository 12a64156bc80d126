//! The network between a service and the brokers: a proxy per broker, which can be slow, silent or cut.

use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

/// How the network is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Network {
    Well,
    /// Everything takes so much longer, each way.
    Slow(Duration),
    /// Connections stay, and nothing comes through.
    Silent,
    /// Connections break, and no new one comes about.
    Cut,
}

/// One service's ways to all brokers.
pub struct Ways {
    pub ports: Vec<u16>,
    listeners: Vec<TcpListener>,
    network: watch::Sender<Network>,
}

impl Ways {
    pub async fn new(brokers: usize) -> Self {
        let mut listeners = Vec::new();
        for _ in 0..brokers {
            listeners.push(TcpListener::bind("127.0.0.1:0").await.unwrap());
        }
        let ports = listeners.iter().map(|listener| listener.local_addr().unwrap().port()).collect();
        Self { ports, listeners, network: watch::Sender::new(Network::Well) }
    }

    /// Leads to the brokers, each behind the proxy at the same place.
    pub fn lead_to(&mut self, brokers: &[String]) {
        for (listener, broker) in self.listeners.drain(..).zip(brokers) {
            let (broker, network) = (Arc::<str>::from(broker.as_str()), self.network.subscribe());
            tokio::spawn(async move {
                while let Ok((client, _)) = listener.accept().await {
                    tokio::spawn(connection(client, broker.clone(), network.clone()));
                }
            });
        }
    }

    pub fn brokers(&self) -> String {
        self.ports.iter().map(|port| format!("127.0.0.1:{port}")).collect::<Vec<_>>().join(",")
    }

    pub fn set(&self, network: Network) {
        self.network.send_replace(network);
    }
}

async fn connection(client: TcpStream, broker: Arc<str>, mut network: watch::Receiver<Network>) {
    if *network.borrow() == Network::Cut {
        return;
    }
    let Ok(server) = TcpStream::connect(&*broker).await else { return };
    let _ = (client.set_nodelay(true), server.set_nodelay(true));
    let (from_client, to_client) = client.into_split();
    let (from_server, to_server) = server.into_split();
    let both = [tokio::spawn(forward(from_client, to_server, network.clone())), tokio::spawn(forward(from_server, to_client, network.clone()))];
    let stops = both.each_ref().map(tokio::task::JoinHandle::abort_handle);
    let over = async {
        for way in both {
            let _ = way.await;
        }
    };
    tokio::select! {
        () = over => {}
        _ = network.wait_for(|network| *network == Network::Cut) => {}
    }
    stops.iter().for_each(tokio::task::AbortHandle::abort);
}

/// In order, whatever the network is like.
async fn forward(mut from: OwnedReadHalf, mut to: OwnedWriteHalf, mut network: watch::Receiver<Network>) {
    let (sender, mut pieces) = tokio::sync::mpsc::channel::<(tokio::time::Instant, Vec<u8>)>(256);
    let delay = network.clone();
    let write = async move {
        while let Some((due, piece)) = pieces.recv().await {
            tokio::time::sleep_until(due).await;
            if network.wait_for(|network| *network != Network::Silent).await.is_err() || to.write_all(&piece).await.is_err() {
                return;
            }
        }
    };
    let read = async move {
        let mut buffer = vec![0; 64 << 10];
        while let Ok(length @ 1..) = from.read(&mut buffer).await {
            let network = *delay.borrow();
            let late = if let Network::Slow(late) = network { late } else { Duration::ZERO };
            if sender.send((tokio::time::Instant::now() + late, buffer[..length].to_vec())).await.is_err() {
                return;
            }
        }
    };
    tokio::join!(read, write);
}
