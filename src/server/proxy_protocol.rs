//! The PROXY protocol, versions 1 and 2: a proxy that passes bytes on says before the first of them who
//! the client is. It is believed from trusted proxies alone, comes before TLS, and is bounded in length;
//! whoever waits for it bounds the time.

use std::io;
use std::net::IpAddr;

use proxy_header::{ParseConfig, ProxyHeader};
use tokio::io::{AsyncRead, AsyncReadExt};

/// How every header of version 2 begins.
const SIGNATURE: &[u8; 12] = b"\r\n\r\n\0\r\nQUIT\n";

/// Longest header of version 1, its line end included.
const LONGEST_LINE: usize = 107;

/// Longest header of version 2 with all that proxies add, in bytes behind the first sixteen.
const LONGEST_REST: usize = 4096;

/// Why a connection was not introduced.
#[derive(Debug, thiserror::Error)]
pub enum NotIntroduced {
    #[error("the connection ended before its PROXY header: {0}")]
    Read(#[from] io::Error),
    #[error("what a proxy sent is no PROXY header")]
    Malformed,
    #[error("a PROXY header is too long")]
    TooLong,
}

/// Reads the header and not a byte more. `None`: the proxy speaks for itself, as in a health check.
pub async fn read(stream: &mut (impl AsyncRead + Unpin)) -> Result<Option<IpAddr>, NotIntroduced> {
    let mut header = vec![0; SIGNATURE.len()];
    stream.read_exact(&mut header).await?;
    if header == SIGNATURE {
        read_rest(stream, &mut header).await?;
    } else {
        read_line(stream, &mut header).await?;
    }
    let config = ParseConfig { include_tlvs: false, ..ParseConfig::default() };
    let (said, length) =
        ProxyHeader::parse(&header, config).map_err(|_| NotIntroduced::Malformed)?;
    if length != header.len() {
        return Err(NotIntroduced::Malformed);
    }
    Ok(said.proxied_address().map(|address| address.source.ip().to_canonical()))
}

/// Version 2: four bytes, of which two say how many follow.
async fn read_rest(
    stream: &mut (impl AsyncRead + Unpin),
    header: &mut Vec<u8>,
) -> Result<(), NotIntroduced> {
    let mut fixed = [0; 4];
    stream.read_exact(&mut fixed).await?;
    let [_, _, high, low] = fixed;
    let rest = usize::from(u16::from_be_bytes([high, low]));
    if rest > LONGEST_REST {
        return Err(NotIntroduced::TooLong);
    }
    header.extend(fixed);
    let begun = header.len();
    header.resize(begun + rest, 0);
    stream.read_exact(header.get_mut(begun..).unwrap_or_default()).await?;
    Ok(())
}

/// Version 1: a line. Byte by byte, as what follows belongs to TLS.
async fn read_line(
    stream: &mut (impl AsyncRead + Unpin),
    header: &mut Vec<u8>,
) -> Result<(), NotIntroduced> {
    if !header.starts_with(b"PROXY ") {
        return Err(NotIntroduced::Malformed);
    }
    while header.last() != Some(&b'\n') {
        if header.len() == LONGEST_LINE {
            return Err(NotIntroduced::TooLong);
        }
        header.push(stream.read_u8().await?);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What is read of these bytes, and what is left of them.
    fn heard(bytes: &[u8]) -> (Result<Option<String>, String>, Vec<u8>) {
        let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
        let mut rest = bytes;
        let said = runtime.block_on(read(&mut rest));
        let said = said.map(|client| client.map(|client| client.to_string()));
        (said.map_err(|error| error.to_string()), rest.to_vec())
    }

    fn version_2(command: u8, family: u8, rest: &[u8]) -> Vec<u8> {
        let length = u16::try_from(rest.len()).expect("short").to_be_bytes();
        [SIGNATURE, &[0x20 | command, family][..], &length, rest].concat()
    }

    #[test]
    fn the_client_is_who_a_proxy_says_and_nothing_behind_the_header_is_touched() {
        let v4 = [203, 0, 113, 9, 192, 0, 2, 1, 0x80, 0, 0x01, 0xbb];
        let mut v6 = [0; 36];
        v6[..16]
            .copy_from_slice(&"2001:db8::9".parse::<std::net::Ipv6Addr>().expect("v6").octets());
        for (header, client) in [
            (b"PROXY TCP4 203.0.113.9 192.0.2.1 32768 443\r\n".to_vec(), Some("203.0.113.9")),
            (b"PROXY TCP6 2001:db8::9 2001:db8::1 32768 443\r\n".to_vec(), Some("2001:db8::9")),
            (b"PROXY TCP6 ::ffff:203.0.113.9 ::1 1 443\r\n".to_vec(), Some("203.0.113.9")),
            (b"PROXY UNKNOWN\r\n".to_vec(), None),
            (version_2(1, 0x11, &v4), Some("203.0.113.9")),
            (version_2(1, 0x21, &v6), Some("2001:db8::9")),
            (version_2(1, 0x11, &[&v4[..], &[4, 0, 1, 0]].concat()), Some("203.0.113.9")),
            (version_2(0, 0, &[]), None),
        ] {
            let (said, rest) = heard(&[&header[..], b"\x16\x03\x01"].concat());
            assert_eq!(said, Ok(client.map(str::to_owned)), "{header:?}");
            assert_eq!(rest, b"\x16\x03\x01", "{header:?}");
        }
    }

    #[test]
    fn what_is_no_header_or_too_long_introduces_nobody() {
        let long = format!("PROXY TCP4 {}", "1".repeat(200));
        for bytes in [
            b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\x00\x00".to_vec(),
            b"GET / HTTP/1.1\r\n\r\n".to_vec(),
            b"PROXY TCP4 203.0.113.9 nonsense 1 2\r\n".to_vec(),
            b"PROXY TCP4 203.0.113.9 192.0.2.1 1 2\n".to_vec(),
            b"PROXY TCP5 203.0.113.9 192.0.2.1 1 2\r\n".to_vec(),
            long.into_bytes(),
            version_2(1, 0x11, &[1, 2]),
            version_2(7, 0x11, &[0; 12]),
            version_2(1, 0x11, &[0; LONGEST_REST + 1]),
            b"PROXY TCP4 203.0".to_vec(),
        ] {
            assert!(heard(&bytes).0.is_err(), "{bytes:?}");
        }
    }
}
