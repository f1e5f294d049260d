//! The numbers of DNS, each a newtype so that they cannot be mixed up.

use std::fmt;

macro_rules! numbers {
    ($(#[$doc:meta])* $name:ident($int:ty), $unknown:literal, { $($(#[$vdoc:meta])* $variant:ident = $value:literal $text:literal),* $(,)? }) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub struct $name(pub $int);

        impl $name {
            $($(#[$vdoc])* pub const $variant: $name = $name($value);)*
            /// All that have a mnemonic.
            pub const KNOWN: &[$name] = &[$($name($value)),*];

            /// Returns the mnemonic, if there is one.
            pub const fn mnemonic(self) -> Option<&'static str> {
                match self.0 {
                    $($value => Some($text),)*
                    _ => None,
                }
            }

            /// Parses a known mnemonic in any letter case.
            pub fn named(text: &str) -> Option<$name> {
                $(if text.eq_ignore_ascii_case($text) { return Some($name($value)); })*
                None
            }

            /// Parses a mnemonic, or the form of RFC 3597, in any letter case.
            pub fn from_mnemonic(text: &str) -> Option<$name> {
                if let Some(known) = $name::named(text) {
                    return Some(known);
                }
                // RFC 3597 5: an unknown type or class is written with its number.
                let (prefix, number) = text.split_at_checked($unknown.len())?;
                if prefix.eq_ignore_ascii_case($unknown) { number.parse().ok().map($name) } else { None }
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                match self.mnemonic() {
                    Some(text) => f.write_str(text),
                    None => write!(f, concat!($unknown, "{}"), self.0),
                }
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Display::fmt(self, f)
            }
        }
    };
}

numbers! {
    /// A record type or query type.
    Type(u16), "TYPE", {
        // The common ones first: a mnemonic is compared in this order. All are those of miekg/dns.
        /// IPv4 address.
        A = 1 "A",
        /// IPv6 address.
        AAAA = 28 "AAAA",
        /// Alias.
        CNAME = 5 "CNAME",
        /// Text.
        TXT = 16 "TXT",
        /// Pointer, for reverse names.
        PTR = 12 "PTR",
        /// Service location (RFC 2782).
        SRV = 33 "SRV",
        /// Mail exchanger.
        MX = 15 "MX",
        /// Name server.
        NS = 2 "NS",
        /// Start of authority.
        SOA = 6 "SOA",
        /// Mail destination (obsolete).
        MD = 3 "MD",
        /// Mail forwarder (obsolete).
        MF = 4 "MF",
        /// Mailbox (experimental).
        MB = 7 "MB",
        /// Mail group member (experimental).
        MG = 8 "MG",
        /// Mail rename (experimental).
        MR = 9 "MR",
        /// Anything (experimental).
        NULL = 10 "NULL",
        /// Host information; the whole answer to ANY (RFC 8482).
        HINFO = 13 "HINFO",
        /// Mailbox information (experimental).
        MINFO = 14 "MINFO",
        /// Responsible person.
        RP = 17 "RP",
        /// AFS cell database.
        AFSDB = 18 "AFSDB",
        /// X.25 address.
        X25 = 19 "X25",
        /// ISDN address.
        ISDN = 20 "ISDN",
        /// Route through.
        RT = 21 "RT",
        /// Pointer for NSAP addresses.
        NSAP_PTR = 23 "NSAP-PTR",
        /// Signature (obsolete but for SIG(0)).
        SIG = 24 "SIG",
        /// Key (obsolete but for SIG(0)).
        KEY = 25 "KEY",
        /// X.400 mapping.
        PX = 26 "PX",
        /// Geographical position (obsolete).
        GPOS = 27 "GPOS",
        /// Location.
        LOC = 29 "LOC",
        /// Denial of existence (obsolete).
        NXT = 30 "NXT",
        /// Endpoint identifier.
        EID = 31 "EID",
        /// Nimrod locator.
        NIMLOC = 32 "NIMLOC",
        /// ATM address.
        ATMA = 34 "ATMA",
        /// Naming authority pointer.
        NAPTR = 35 "NAPTR",
        /// Key exchanger.
        KX = 36 "KX",
        /// Certificate.
        CERT = 37 "CERT",
        /// Subtree alias.
        DNAME = 39 "DNAME",
        /// EDNS (RFC 6891).
        OPT = 41 "OPT",
        /// Address prefix list.
        APL = 42 "APL",
        /// Delegation signer.
        DS = 43 "DS",
        /// SSH fingerprint.
        SSHFP = 44 "SSHFP",
        /// IPsec key.
        IPSECKEY = 45 "IPSECKEY",
        /// Signature.
        RRSIG = 46 "RRSIG",
        /// Denial of existence.
        NSEC = 47 "NSEC",
        /// Zone key.
        DNSKEY = 48 "DNSKEY",
        /// DHCP client identifier.
        DHCID = 49 "DHCID",
        /// Hashed denial of existence.
        NSEC3 = 50 "NSEC3",
        /// Parameters of NSEC3.
        NSEC3PARAM = 51 "NSEC3PARAM",
        /// Certificate association.
        TLSA = 52 "TLSA",
        /// Certificate association for S/MIME.
        SMIMEA = 53 "SMIMEA",
        /// Host identity.
        HIP = 55 "HIP",
        /// Zone status.
        NINFO = 56 "NINFO",
        /// Key to encrypt NAPTR records.
        RKEY = 57 "RKEY",
        /// Trust anchor link.
        TALINK = 58 "TALINK",
        /// The child's DS.
        CDS = 59 "CDS",
        /// The child's DNSKEY.
        CDNSKEY = 60 "CDNSKEY",
        /// OpenPGP key.
        OPENPGPKEY = 61 "OPENPGPKEY",
        /// Child to parent synchronization.
        CSYNC = 62 "CSYNC",
        /// Digest of a zone.
        ZONEMD = 63 "ZONEMD",
        /// Service binding.
        SVCB = 64 "SVCB",
        /// HTTPS service binding.
        HTTPS = 65 "HTTPS",
        /// Sender policy (obsolete).
        SPF = 99 "SPF",
        /// User information.
        UINFO = 100 "UINFO",
        /// User number.
        UID = 101 "UID",
        /// Group number.
        GID = 102 "GID",
        /// Unspecified.
        UNSPEC = 103 "UNSPEC",
        /// Node identifier.
        NID = 104 "NID",
        /// Locator of 32 bits.
        L32 = 105 "L32",
        /// Locator of 64 bits.
        L64 = 106 "L64",
        /// Locator pointer.
        LP = 107 "LP",
        /// EUI-48 address.
        EUI48 = 108 "EUI48",
        /// EUI-64 address.
        EUI64 = 109 "EUI64",
        /// No such name, in NSEC.
        NXNAME = 128 "NXNAME",
        /// Transaction key.
        TKEY = 249 "TKEY",
        /// Transaction signature.
        TSIG = 250 "TSIG",
        /// Incremental transfer.
        IXFR = 251 "IXFR",
        /// Zone transfer.
        AXFR = 252 "AXFR",
        /// Mailbox records, as a question (obsolete).
        MAILB = 253 "MAILB",
        /// Mail agents, as a question (obsolete).
        MAILA = 254 "MAILA",
        /// All types.
        ANY = 255 "ANY",
        /// Uniform resource identifier.
        URI = 256 "URI",
        /// Certification authority authorization.
        CAA = 257 "CAA",
        /// Application visibility.
        AVC = 258 "AVC",
        /// Multicast relay.
        AMTRELAY = 260 "AMTRELAY",
        /// Resolver information.
        RESINFO = 261 "RESINFO",
        /// Trust authority.
        TA = 32768 "TA",
        /// Look-aside validation (obsolete).
        DLV = 32769 "DLV",
    }
}

numbers! {
    /// A class.
    Class(u16), "CLASS", {
        /// Internet.
        IN = 1 "IN",
        /// CSNET (obsolete).
        CS = 2 "CS",
        /// Chaos, for information about the server itself.
        CH = 3 "CH",
        /// Hesiod.
        HS = 4 "HS",
        /// No class (updates).
        NONE = 254 "NONE",
        /// Every class.
        ANY = 255 "ANY",
    }
}

numbers! {
    /// An operation code, 0–15.
    Opcode(u8), "OPCODE", {
        /// A standard query.
        QUERY = 0 "QUERY",
        /// Inverse query (obsolete).
        IQUERY = 1 "IQUERY",
        /// Server status.
        STATUS = 2 "STATUS",
        /// A zone has changed (RFC 1996).
        NOTIFY = 4 "NOTIFY",
        /// Dynamic update (RFC 2136).
        UPDATE = 5 "UPDATE",
    }
}

numbers! {
    /// A response code, with the extended ones of EDNS: 0–4095.
    Rcode(u16), "RCODE", {
        /// No error.
        NOERROR = 0 "NOERROR",
        /// The query is malformed.
        FORMERR = 1 "FORMERR",
        /// The server failed to answer.
        SERVFAIL = 2 "SERVFAIL",
        /// The name does not exist.
        NXDOMAIN = 3 "NXDOMAIN",
        /// The operation is not implemented.
        NOTIMP = 4 "NOTIMP",
        /// The server refuses to answer, by policy.
        REFUSED = 5 "REFUSED",
        /// A name that should not exist does.
        YXDOMAIN = 6 "YXDOMAIN",
        /// A record set that should not exist does.
        YXRRSET = 7 "YXRRSET",
        /// A record set that should exist does not.
        NXRRSET = 8 "NXRRSET",
        /// Not authoritative, or not authorised.
        NOTAUTH = 9 "NOTAUTH",
        /// The name is not in the zone.
        NOTZONE = 10 "NOTZONE",
        /// The EDNS version is not implemented (RFC 6891 9).
        BADVERS = 16 "BADVERS",
    }
}

impl Rcode {
    /// The names of codes in Corefiles, which are those of miekg/dns.
    pub const COREFILE_NAMES: &[(&'static str, Rcode)] = &[
        ("NOERROR", Rcode(0)),
        ("FORMERR", Rcode(1)),
        ("SERVFAIL", Rcode(2)),
        ("NXDOMAIN", Rcode(3)),
        ("NOTIMP", Rcode(4)),
        ("NOTIMPL", Rcode(4)),
        ("REFUSED", Rcode(5)),
        ("YXDOMAIN", Rcode(6)),
        ("YXRRSET", Rcode(7)),
        ("NXRRSET", Rcode(8)),
        ("NOTAUTH", Rcode(9)),
        ("NOTZONE", Rcode(10)),
        ("DSOTYPENI", Rcode(11)),
        ("BADSIG", Rcode(16)),
        ("BADKEY", Rcode(17)),
        ("BADTIME", Rcode(18)),
        ("BADMODE", Rcode(19)),
        ("BADNAME", Rcode(20)),
        ("BADALG", Rcode(21)),
        ("BADTRUNC", Rcode(22)),
        ("BADCOOKIE", Rcode(23)),
    ];
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mnemonics_and_numbers_round_trip() {
        for number in (0..=300).chain(32_760..=32_780) {
            let rtype = Type(number);
            assert_eq!(Type::from_mnemonic(&rtype.to_string()), Some(rtype));
        }
        assert_eq!(Type::from_mnemonic("aaaa"), Some(Type::AAAA));
        assert_eq!(Type::from_mnemonic("TYPE65280"), Some(Type(65280)));
        assert_eq!(Type::from_mnemonic("TYPE65536"), None);
        assert_eq!(Type::from_mnemonic("é"), None);
    }
}
