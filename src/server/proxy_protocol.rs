//! The PROXY protocol, versions 1 and 2: the client address, sent by a TCP proxy before TLS. Accepted from
//! trusted proxies only. The length is limited here, the time by the caller.

use std::io;
use std::net::IpAddr;

use proxy_header::{ParseConfig, ProxyHeader};
use tokio::io::{AsyncRead, AsyncReadExt};

/// First bytes of a version 2 header.
const SIGNATURE: &[u8; 12] = b"\r\n\r\n\0\r\nQUIT\n";

/// Maximum length in bytes of a version 1 header, line end included.
const MAX_V1_LEN: usize = 107;

/// Maximum length in bytes of a version 2 header after its first sixteen bytes.
const MAX_V2_REST: usize = 4096;

/// Why a PROXY header was rejected.
#[derive(Debug, thiserror::Error)]
pub enum ProxyHeaderError {
    #[error("the connection ended before its PROXY header: {0}")]
    Read(#[from] io::Error),
    #[error("malformed PROXY header")]
    Malformed,
    #[error("PROXY header too long")]
    TooLong,
}

/// Reads exactly the header. Returns `None` if the proxy itself is the client, as in a health check.
pub async fn read(
    stream: &mut (impl AsyncRead + Unpin),
) -> Result<Option<IpAddr>, ProxyHeaderError> {
    let mut header = vec![0; SIGNATURE.len()];
    stream.read_exact(&mut header).await?;
    if header == SIGNATURE {
        read_v2(stream, &mut header).await?;
    } else {
        read_v1(stream, &mut header).await?;
    }
    let config = ParseConfig { include_tlvs: false, ..ParseConfig::default() };
    let (parsed, length) =
        ProxyHeader::parse(&header, config).map_err(|_| ProxyHeaderError::Malformed)?;
    if length != header.len() {
        return Err(ProxyHeaderError::Malformed);
    }
    Ok(parsed.proxied_address().map(|address| address.source.ip().to_canonical()))
}

/// Version 2: four bytes, the last two of which are the length of the rest.
async fn read_v2(
    stream: &mut (impl AsyncRead + Unpin),
    header: &mut Vec<u8>,
) -> Result<(), ProxyHeaderError> {
    let mut fixed = [0; 4];
    stream.read_exact(&mut fixed).await?;
    let [_, _, high, low] = fixed;
    let rest = usize::from(u16::from_be_bytes([high, low]));
    if rest > MAX_V2_REST {
        return Err(ProxyHeaderError::TooLong);
    }
    header.extend(fixed);
    let start = header.len();
    header.resize(start + rest, 0);
    stream.read_exact(header.get_mut(start..).unwrap_or_default()).await?;
    Ok(())
}

/// Version 1: one line, read byte by byte because TLS data follows.
async fn read_v1(
    stream: &mut (impl AsyncRead + Unpin),
    header: &mut Vec<u8>,
) -> Result<(), ProxyHeaderError> {
    if !header.starts_with(b"PROXY ") {
        return Err(ProxyHeaderError::Malformed);
    }
    while header.last() != Some(&b'\n') {
        if header.len() == MAX_V1_LEN {
            return Err(ProxyHeaderError::TooLong);
        }
        header.push(stream.read_u8().await?);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Parses `bytes`. Returns the result and the unread rest.
    fn read_from(bytes: &[u8]) -> (Result<Option<String>, String>, Vec<u8>) {
        let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
        let mut rest = bytes;
        let parsed = runtime.block_on(read(&mut rest));
        let parsed = parsed.map(|client| client.map(|client| client.to_string()));
        (parsed.map_err(|error| error.to_string()), rest.to_vec())
    }

    fn version_2(command: u8, family: u8, rest: &[u8]) -> Vec<u8> {
        let length = u16::try_from(rest.len()).expect("short").to_be_bytes();
        [SIGNATURE, &[0x20 | command, family][..], &length, rest].concat()
    }

    #[test]
    fn the_client_is_parsed_and_the_following_data_is_left() {
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
            let (parsed, rest) = read_from(&[&header[..], b"\x16\x03\x01"].concat());
            assert_eq!(parsed, Ok(client.map(str::to_owned)), "{header:?}");
            assert_eq!(rest, b"\x16\x03\x01", "{header:?}");
        }
    }

    #[test]
    fn malformed_and_oversized_headers_are_rejected() {
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
            version_2(1, 0x11, &[0; MAX_V2_REST + 1]),
            b"PROXY TCP4 203.0".to_vec(),
        ] {
            assert!(read_from(&bytes).0.is_err(), "{bytes:?}");
        }
    }
}
