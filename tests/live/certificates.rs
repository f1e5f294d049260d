//! Certificate authorities for tests.

use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};

use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DnType, ExtendedKeyUsagePurpose, IsCa, KeyPair,
    KeyUsagePurpose,
};

/// An authority that signs certificates.
pub struct Authority(CertifiedIssuer<'static, KeyPair>);

/// A certificate and its key, as PEM files.
pub struct Files {
    pub certificate: PathBuf,
    pub key: PathBuf,
}

impl Authority {
    pub fn new(name: &str) -> Authority {
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::DigitalSignature];
        Authority(CertifiedIssuer::self_signed(params, key()).expect("a certificate"))
    }

    /// Returns its certificate.
    pub fn pem(&self) -> String {
        self.0.pem()
    }

    /// Returns its certificate in DER.
    pub fn der(&self) -> Vec<u8> {
        self.0.der().to_vec()
    }

    /// Creates a certificate of a server on loopback and at more addresses.
    pub fn server(&self, folder: &Path, file: &str, more: &[Ipv4Addr]) -> Files {
        let names =
            ["localhost", "127.0.0.1"].map(str::to_owned).into_iter().chain(more.iter().map(Ipv4Addr::to_string));
        let mut params = CertificateParams::new(names.collect::<Vec<String>>()).expect("names and addresses");
        params.distinguished_name.push(DnType::CommonName, "localhost");
        // etcd's own gateway shows the certificate as a client.
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        self.sign(params, folder, file)
    }

    /// Creates a client certificate of the user `name`.
    pub fn client(&self, name: &str, folder: &Path, file: &str) -> Files {
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, name);
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        self.sign(params, folder, file)
    }

    fn sign(&self, mut params: CertificateParams, folder: &Path, file: &str) -> Files {
        params.use_authority_key_identifier_extension = true;
        let key = key();
        let certificate = params.signed_by(&key, &self.0).expect("a certificate");
        let files = Files { certificate: folder.join(format!("{file}.crt")), key: folder.join(format!("{file}.key")) };
        std::fs::write(&files.certificate, certificate.pem()).expect("a file");
        std::fs::write(&files.key, key.serialize_pem()).expect("a file");
        files
    }
}

/// Creates a key in two PEM files: the private and the public one.
pub fn write_key(private: &Path, public: &Path) {
    let key = key();
    std::fs::write(private, key.serialize_pem()).expect("a file");
    std::fs::write(public, key.public_key_pem()).expect("a file");
}

fn key() -> KeyPair {
    KeyPair::generate().expect("a key")
}
