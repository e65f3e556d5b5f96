//! HTTP over TLS 1.2 or 1.3. Each check makes a whole handshake: with a session that is resumed, the certificate would
//! not be looked at.

use std::{
    cell::RefCell,
    collections::HashMap,
    fs, io,
    net::IpAddr,
    rc::Rc,
    sync::Arc,
    time::{Duration, SystemTime},
};

use synrail::{model::HttpsProbe, sys::clock};
use tokio_rustls::{
    TlsConnector,
    rustls::{
        self, CertificateError, ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme,
        client::{
            Resumption,
            danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
        },
        crypto::{CryptoProvider, ring, verify_tls12_signature, verify_tls13_signature},
        pki_types::{CertificateDer, ServerName, UnixTime, pem::PemObject as _},
    },
};

use super::{Failed, Found, Target, http, socket, tcp};

/// How long the certificates of the host are used before they are read again.
const HOST_CERTIFICATES_FOR: Duration = Duration::from_secs(3600);
/// How large a file of certificates may be.
const CA_FILE_BYTES_MAX: u64 = 4 << 20;

/// Asks a server.
pub async fn probe(target: &Target, probe: &HttpsProbe, trust: &Trust) -> Found {
    let trusted = if probe.verify { trust.of(probe.ca_file.as_deref()) } else { trust.blind() };
    let config = trusted.map_err(Failed::Host)?;
    let name = server_name(target.to.ip(), probe).map_err(Failed::Host)?;
    let stream = tcp::connect(target).await?;
    target.wait_for("TLS handshake");
    let stream = TlsConnector::from(config).connect(name, stream).await.map_err(|error| words(&error))?;
    http::exchange(stream, target, &probe.http, 443).await
}

fn server_name(address: IpAddr, probe: &HttpsProbe) -> Result<ServerName<'static>, String> {
    let Some(name) = probe.server_name.as_ref().or(probe.http.host.as_ref()) else {
        return Ok(ServerName::IpAddress(address.into()));
    };
    // "www.example.org:8443", "[2001:db8::1]:443"
    let bare = match name.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
        Some((bare, _)) => bare,
        None if name.matches(':').count() == 1 => name.split(':').next().unwrap_or(name),
        None => name,
    };
    ServerName::try_from(bare.to_owned()).map_err(|_| format!("{bare:?} is no name of a server"))
}

/// Which certificates are trusted. Read when they are needed, and again when their file has changed.
#[derive(Clone, Debug, Default)]
pub struct Trust(Rc<RefCell<HashMap<Source, Known>>>);

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Source {
    Host,
    File(String),
    /// Every certificate is accepted.
    Blind,
}

#[derive(Debug)]
struct Known {
    version: Version,
    config: Result<Arc<ClientConfig>, String>,
}

/// What tells whether it was read from what is there now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Version {
    Always,
    /// In units of [`HOST_CERTIFICATES_FOR`].
    Time(u64),
    File(Option<(u64, SystemTime)>),
}

impl Trust {
    /// Returns what trusts a file of certificates, or those of the host.
    fn of(&self, file: Option<&str>) -> Result<Arc<ClientConfig>, String> {
        match file {
            None => {
                let hour = clock::monotonic().as_secs() / HOST_CERTIFICATES_FOR.as_secs();
                self.known(Source::Host, Version::Time(hour), || verifying(&host_certificates()?))
            }
            Some(file) => {
                let read = fs::metadata(file).and_then(|about| Ok((about.len(), about.modified()?)));
                self.known(Source::File(file.to_owned()), Version::File(read.ok()), || {
                    verifying(&certificates_of(file)?)
                })
            }
        }
    }

    fn blind(&self) -> Result<Arc<ClientConfig>, String> {
        self.known(Source::Blind, Version::Always, || {
            let provider = Arc::new(ring::default_provider());
            let verifier = Arc::new(AcceptAll(Arc::clone(&provider)));
            let builder = ClientConfig::builder_with_provider(provider);
            let builder = builder.with_safe_default_protocol_versions().map_err(|error| error.to_string())?;
            Ok(builder.dangerous().with_custom_certificate_verifier(verifier).with_no_client_auth())
        })
    }

    fn known(
        &self,
        source: Source,
        version: Version,
        make: impl FnOnce() -> Result<ClientConfig, String>,
    ) -> Result<Arc<ClientConfig>, String> {
        let mut all = self.0.borrow_mut();
        if let Some(known) = all.get(&source).filter(|known| known.version == version) {
            return known.config.clone();
        }
        let config = make().map(|mut config| {
            config.resumption = Resumption::disabled();
            config.alpn_protocols = vec![b"http/1.1".to_vec()];
            Arc::new(config)
        });
        all.insert(source, Known { version, config: config.clone() });
        config
    }
}

fn verifying(roots: &RootCertStore) -> Result<ClientConfig, String> {
    let builder = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()));
    let builder = builder.with_safe_default_protocol_versions().map_err(|error| error.to_string())?;
    Ok(builder.with_root_certificates(roots.clone()).with_no_client_auth())
}

fn host_certificates() -> Result<RootCertStore, String> {
    let mut roots = RootCertStore::empty();
    // Some that cannot be used are no reason to do without the others.
    roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
    if roots.is_empty() {
        return Err("this host has no certificates to trust; install ca-certificates, or give ca_file".into());
    }
    Ok(roots)
}

fn certificates_of(file: &str) -> Result<RootCertStore, String> {
    let cannot = |error: &dyn std::fmt::Display| format!("ca_file cannot be read: {error}");
    let size = fs::metadata(file).map_err(|error| cannot(&error))?;
    if !size.is_file() || size.len() > CA_FILE_BYTES_MAX {
        return Err(cannot(&"no file, or larger than 4 MiB"));
    }
    let text = fs::read(file).map_err(|error| cannot(&error))?;
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_slice_iter(&text) {
        let certificate = certificate.map_err(|error| cannot(&error))?;
        roots.add(certificate).map_err(|error| cannot(&error))?;
    }
    if roots.is_empty() { Err(cannot(&"it has no certificate (PEM)")) } else { Ok(roots) }
}

/// For `verify = false`: whose certificate it is does not matter, but the server must have its key.
#[derive(Debug)]
struct AcceptAll(Arc<CryptoProvider>);

impl ServerCertVerifier for AcceptAll {
    fn verify_server_cert(
        &self,
        _end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(message, certificate, signature, &self.0.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, certificate, signature, &self.0.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}

/// Returns what an error of the handshake means for the backend.
#[expect(clippy::wildcard_enum_match_arm, reason = "the errors of rustls are open")]
fn words(error: &io::Error) -> String {
    let Some(tls) = error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>()) else {
        return match error.kind() {
            io::ErrorKind::UnexpectedEof => "closed amid the TLS handshake".to_owned(),
            _ => socket::words(error),
        };
    };
    match tls {
        rustls::Error::InvalidCertificate(why) => certificate_words(why),
        rustls::Error::InvalidMessage(_) => "not TLS".to_owned(),
        rustls::Error::AlertReceived(alert) => format!("the server refuses the TLS handshake: {alert:?}"),
        other => format!("TLS: {other}"),
    }
}

#[expect(clippy::wildcard_enum_match_arm, reason = "the errors of rustls are open")]
fn certificate_words(why: &CertificateError) -> String {
    match why {
        CertificateError::Expired | CertificateError::ExpiredContext { .. } => {
            "certificate expired".to_owned()
        }
        CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. } => {
            "certificate not valid yet".to_owned()
        }
        CertificateError::NotValidForName => "certificate of another name".to_owned(),
        CertificateError::NotValidForNameContext { expected, .. } => {
            format!("certificate of another name than {}", expected.to_str())
        }
        CertificateError::UnknownIssuer => "certificate of an issuer that is not trusted".to_owned(),
        other => format!("certificate not accepted: {other}"),
    }
}
