//! The first bytes of a connection: ClientHello and PROXY protocol header.

use std::net::IpAddr;

use doorward::server::proxy_protocol;
use doorward::tls::hello::Hello;

/// Every ClientHello that rustls accepts is parsed for fingerprints, with the same result for
/// records of any length.
///
/// The first byte is the record length; the second selects whether the input is already framed in
/// records.
pub fn client_hello(bytes: &[u8]) {
    let [length, form, message @ ..] = bytes else { return };
    if form % 2 == 1 {
        agree(message);
        return;
    }
    let whole = in_records(message, 16_384);
    let hello = agree(&whole);
    let pieces = in_records(message, usize::from(*length).max(1));
    assert_eq!(Hello::read(&pieces), hello, "in records of {length}");
    let Some(hello) = hello else { return };
    assert_eq!(Hello::read(&whole[..whole.len() / 2]), None, "half of it");
    for text in [hello.ja4(), hello.fingerprint().to_string()] {
        assert!(text.len() == 36 && text.is_ascii() && text.starts_with('t'), "{text:?}");
    }
}

fn agree(records: &[u8]) -> Option<Hello> {
    let hello = Hello::read(records);
    assert!(hello.is_some() || !rustls_accepts(records), "rustls reads more than we");
    hello
}

fn rustls_accepts(mut records: &[u8]) -> bool {
    let mut acceptor = rustls::server::Acceptor::default();
    while let Ok(1..) = acceptor.read_tls(&mut records) {
        match acceptor.accept() {
            Ok(Some(_)) => return true,
            Ok(None) => {}
            Err(_) => return false,
        }
    }
    false
}

fn in_records(message: &[u8], length: usize) -> Vec<u8> {
    let records = message.chunks(length).map(|chunk| {
        let length = u16::try_from(chunk.len()).expect("a piece is short").to_be_bytes();
        [&[22, 3, 1], &length[..], chunk].concat()
    });
    records.collect::<Vec<_>>().concat()
}

/// A PROXY header is read exactly to its end. A prefix of it is rejected, and so is a ClientHello.
pub fn proxy_header(bytes: &[u8]) {
    let Some((client, length)) = introduced(bytes) else { return };
    assert!(bytes.starts_with(b"PROXY ") || bytes.starts_with(b"\r\n\r\n\0\r\nQUIT\n"));
    assert!(length <= 16 + 4096, "{length} bytes");
    assert_eq!(length, length_of(bytes), "a header ends where it says");
    assert_eq!(client, client.map(|client| client.to_canonical()));
    let header = &bytes[..length];
    assert_eq!(introduced(header), Some((client, length)), "without what follows");
    let followed = [header, b"\x16\x03\x01PROXY \r\n"].concat();
    assert_eq!(introduced(&followed), Some((client, length)), "before a handshake");
    for cut in [0, 1, length / 2, length - 1] {
        assert_eq!(introduced(&header[..cut]), None, "cut at {cut} of {length}");
    }
}

/// Length of the header according to the specification.
fn length_of(bytes: &[u8]) -> usize {
    match bytes {
        [b'P', ..] => bytes.iter().position(|byte| *byte == b'\n').map_or(0, |at| at + 1),
        [_, ..] => 16 + usize::from(bytes[14]) * 256 + usize::from(bytes[15]),
        [] => 0,
    }
}

/// Returns the client and the number of bytes read.
fn introduced(bytes: &[u8]) -> Option<(Option<IpAddr>, usize)> {
    let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
    let mut rest = bytes;
    let client = runtime.block_on(proxy_protocol::read(&mut rest)).ok()?;
    Some((client, bytes.len() - rest.len()))
}
