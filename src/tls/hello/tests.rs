//! Lists and results from the specification and test data of FoxIO's JA4.

use super::*;

const CHROME_CIPHERS: &str =
    "1301,1302,1303,c02b,c02f,c02c,c030,cca9,cca8,c013,c014,009c,009d,002f,0035";
const CHROME_ALGORITHMS: &str = "0403,0804,0401,0503,0805,0501,0806,0601";
const CHROME_EXTENSIONS: &str =
    "001b,0000,0033,0010,4469,0017,002d,000d,0005,0023,0012,002b,ff01,000b,000a,0015";

fn list(text: &str) -> Vec<u16> {
    let numbers = text.split(',').filter(|digits| !digits.is_empty());
    numbers.map(|digits| u16::from_str_radix(digits, 16).expect("a number")).collect()
}

fn bytes(numbers: &[u16]) -> Vec<u8> {
    numbers.iter().flat_map(|number| number.to_be_bytes()).collect()
}

fn long(body: &[u8]) -> Vec<u8> {
    [&u16::try_from(body.len()).expect("short").to_be_bytes(), body].concat()
}

fn short(body: &[u8]) -> Vec<u8> {
    [&[u8::try_from(body.len()).expect("short")], body].concat()
}

fn record(body: &[u8]) -> Vec<u8> {
    [&[HANDSHAKE, 3, 1][..], &long(body)].concat()
}

/// The content of a ClientHello, in wire order.
#[derive(Clone, Copy)]
struct Client<'a> {
    legacy_version: u16,
    versions: &'a str,
    ciphers: &'a str,
    extensions: &'a str,
    algorithms: &'a str,
    protocols: &'a [&'a [u8]],
}

const CHROME: Client<'_> = Client {
    legacy_version: 0x0303,
    versions: "7a7a,0304,0303",
    ciphers: CHROME_CIPHERS,
    extensions: CHROME_EXTENSIONS,
    algorithms: CHROME_ALGORITHMS,
    protocols: &[b"h2", b"http/1.1"],
};

impl Client<'_> {
    fn message(&self) -> Vec<u8> {
        let extensions: Vec<u8> = list(self.extensions)
            .into_iter()
            .flat_map(|extension| [bytes(&[extension]), long(&self.extension(extension))].concat())
            .collect();
        let body = [
            bytes(&[self.legacy_version]),
            vec![7; 32],
            short(&[9; 32]),
            long(&bytes(&list(self.ciphers))),
            short(&[0]),
            long(&extensions),
        ]
        .concat();
        let length = u32::try_from(body.len()).expect("short").to_be_bytes();
        [&[CLIENT_HELLO], &length[1..], &body].concat()
    }

    fn extension(&self, extension: u16) -> Vec<u8> {
        match extension {
            SUPPORTED_VERSIONS => short(&bytes(&list(self.versions))),
            SIGNATURE_ALGORITHMS => long(&bytes(&list(self.algorithms))),
            ALPN => long(&self.protocols.iter().flat_map(|name| short(name)).collect::<Vec<_>>()),
            PADDING => vec![0; 200],
            _ => Vec::new(),
        }
    }

    fn hello(&self) -> Hello {
        Hello::read(&record(&self.message())).expect("a whole hello")
    }
}

#[test]
fn ja4_equals_the_published_test_vectors() {
    let chrome = CHROME;
    let h1 = Client { protocols: &[b"http/1.1"], ..chrome };
    let odd = Client { protocols: &[b"\x9a\x01\x29"], ..chrome };
    let bare = Client { extensions: "", ..chrome };
    let old = Client {
        ciphers: "c02c,c02b,c030,c02f,c024,c023,c028,c027,c00a,c009,c014,c013,009d,009c,003d,003c,0035,002f,000a",
        extensions: "0000,0005,000a,000b,000d,0023,0017,ff01",
        algorithms: "0804,0805,0806,0401,0501,0201,0403,0503,0203,0202,0601,0603",
        ..chrome
    };
    let resumed = Client {
        extensions: "0000,0017,0005,002b,0012,0023,000a,0033,0010,002d,001b,4469,000b,000d,ff01,0015,0029",
        ..h1
    };
    let without_alpn = Client {
        extensions: "0033,002b,001b,0000,0012,002d,000d,000a,0005,0023,0017,ff01,000b,0015",
        ..chrome
    };
    let firefox = Client {
        ciphers: "1301,1303,1302,c02b,c02f,cca9,cca8,c02c,c030,c00a,c009,c013,c014,009c,009d,002f,0035",
        extensions: "0000,0017,ff01,000a,000b,0023,0010,0005,0022,0033,002b,000d,002d,001c,0015",
        algorithms: "0403,0503,0603,0804,0805,0806,0401,0501,0601,0203,0201",
        ..chrome
    };
    for (client, ja4) in [
        (chrome, "t13d1516h2_8daaf6152771_e5627efa2ab1"),
        (h1, "t13d1516h1_8daaf6152771_e5627efa2ab1"),
        (odd, "t13d151699_8daaf6152771_e5627efa2ab1"),
        (resumed, "t13d1517h1_8daaf6152771_6cdcb247c39b"),
        (without_alpn, "t13d151400_8daaf6152771_de4a06bb82e3"),
        (old, "t12d190800_d83cc789557e_7af1ed941c26"),
        (firefox, "t13d1715h2_5b57614c22b0_3d5424432f57"),
        (bare, "t12i150000_8daaf6152771_000000000000"),
    ] {
        assert_eq!(client.hello().ja4(), ja4);
    }
}

#[test]
fn variants_of_chromium_share_one_fingerprint() {
    let variants = [
        (CHROME_EXTENSIONS, &[&b"h2"[..], b"http/1.1"][..]),
        // A WebSocket.
        (
            "0033,002b,001b,0000,0012,002d,000d,000a,0010,0005,0023,0017,ff01,000b,0015",
            &[b"http/1.1"],
        ),
        // Resumed, with and without padding, shuffled, and with GREASE.
        (
            "0000,0017,0005,002b,0012,0023,000a,0033,0010,002d,001b,4469,000b,000d,ff01,0015,0029",
            &[b"h2"],
        ),
        (
            "1a1a,ff01,0017,0005,002b,0012,000a,0033,0010,002d,001b,44cd,000b,000d,0000,002a,0029,fafa",
            &[b"h2"],
        ),
    ];
    let clients =
        variants.map(|(extensions, protocols)| Client { extensions, protocols, ..CHROME });
    let ja4: Vec<String> = clients.iter().map(|client| client.hello().ja4()).collect();
    let fingerprints = clients.map(|client| client.hello().fingerprint().to_string());
    for (number, fingerprint) in fingerprints.iter().enumerate() {
        assert_eq!(fingerprint, "t13d151200_8daaf6152771_7dc0f4860127");
        assert!(!ja4[..number].contains(&ja4[number]), "{ja4:?}");
    }
    let other = Client { algorithms: "0804,0403", ..CHROME };
    assert_ne!(other.hello().fingerprint(), CHROME.hello().fingerprint());
}

/// Recorded from Debian's Chromium within one second: a new connection, a resumption, a WebSocket.
#[test]
fn recorded_chromium_hellos_share_one_fingerprint() {
    let read = |name: &str| {
        let bytes = std::fs::read(format!("tests/data/hello/{name}")).expect("a file");
        Hello::read(&bytes).expect("a hello")
    };
    let hellos = ["chromium-fresh", "chromium-resumed", "chromium-websocket"].map(read);
    let ja4 = [
        "t13d1517h2_8daaf6152771_cb7bf5808d99",
        "t13d1518h2_8daaf6152771_e2d80978ab2e",
        "t13d1516h1_8daaf6152771_5b37b36a67c0",
    ];
    assert_eq!(hellos.each_ref().map(Hello::ja4), ja4);
    for hello in hellos {
        assert_eq!(hello.fingerprint().to_string(), "t13d151400_8daaf6152771_6354a4cdb0b1");
    }
}

#[test]
fn a_hello_in_many_records_parses_and_a_prefix_does_not() {
    let message = CHROME.message();
    let whole = CHROME.hello();
    for length in [1, 2, 3, 4, 5, 100, message.len()] {
        let records: Vec<u8> = message.chunks(length).flat_map(record).collect();
        assert_eq!(Hello::read(&records), Some(whole.clone()), "records of {length}");
        let more = [&records[..], &record(b"what follows")].concat();
        assert_eq!(Hello::read(&more), Some(whole.clone()), "records of {length} and one more");
        for cut in 0..records.len() {
            assert_eq!(Hello::read(&records[..cut]), None, "records of {length}, cut at {cut}");
        }
    }
}

#[test]
fn other_bytes_do_not_parse() {
    let message = CHROME.message();
    let with = |at: usize, byte: u8| {
        let mut other = message.clone();
        other[at] = byte;
        record(&other)
    };
    for bytes in [
        Vec::new(),
        b"GET / HTTP/1.1\r\n\r\n".to_vec(),
        with(0, 2),
        // The session id is longer than the message.
        with(4 + 2 + 32, 255),
        [&[21, 3, 3, 0, 2, 1, 0][..], &record(&message)].concat(),
    ] {
        assert_eq!(Hello::read(&bytes), None, "{bytes:?}");
    }
}
