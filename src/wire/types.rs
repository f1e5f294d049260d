//! The numbers of DNS, each a newtype so that they cannot be mixed up.

use std::fmt;

macro_rules! numbers {
    ($(#[$doc:meta])* $name:ident($int:ty), $unknown:literal, { $($(#[$vdoc:meta])* $variant:ident = $value:literal $text:literal),* $(,)? }) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub struct $name(pub $int);

        impl $name {
            $($(#[$vdoc])* pub const $variant: $name = $name($value);)*

            /// Returns the mnemonic, if there is one.
            pub const fn mnemonic(self) -> Option<&'static str> {
                match self.0 {
                    $($value => Some($text),)*
                    _ => None,
                }
            }

            /// Parses a mnemonic in any letter case.
            pub fn from_mnemonic(text: &str) -> Option<$name> {
                $(if text.eq_ignore_ascii_case($text) { return Some($name($value)); })*
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
        /// IPv4 address.
        A = 1 "A",
        /// Name server.
        NS = 2 "NS",
        /// Alias.
        CNAME = 5 "CNAME",
        /// Start of authority.
        SOA = 6 "SOA",
        /// Pointer, for reverse names.
        PTR = 12 "PTR",
        /// Host information; the complete answer to ANY (RFC 8482).
        HINFO = 13 "HINFO",
        /// Mail exchanger.
        MX = 15 "MX",
        /// Text.
        TXT = 16 "TXT",
        /// IPv6 address.
        AAAA = 28 "AAAA",
        /// Service location (RFC 2782).
        SRV = 33 "SRV",
        /// Naming authority pointer.
        NAPTR = 35 "NAPTR",
        /// Subtree alias.
        DNAME = 39 "DNAME",
        /// EDNS (RFC 6891).
        OPT = 41 "OPT",
        /// Delegation signer.
        DS = 43 "DS",
        /// Signature.
        RRSIG = 46 "RRSIG",
        /// Denial of existence.
        NSEC = 47 "NSEC",
        /// Zone key.
        DNSKEY = 48 "DNSKEY",
        /// Hashed denial of existence.
        NSEC3 = 50 "NSEC3",
        /// Service binding.
        SVCB = 64 "SVCB",
        /// HTTPS service binding.
        HTTPS = 65 "HTTPS",
        /// Transaction signature.
        TSIG = 250 "TSIG",
        /// Incremental transfer.
        IXFR = 251 "IXFR",
        /// Zone transfer.
        AXFR = 252 "AXFR",
        /// All types.
        ANY = 255 "ANY",
        /// Certification authority authorization.
        CAA = 257 "CAA",
    }
}

numbers! {
    /// A class.
    Class(u16), "CLASS", {
        /// Internet.
        IN = 1 "IN",
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mnemonics_and_numbers_round_trip() {
        for number in 0..=300 {
            let rtype = Type(number);
            assert_eq!(Type::from_mnemonic(&rtype.to_string()), Some(rtype));
        }
        assert_eq!(Type::from_mnemonic("aaaa"), Some(Type::AAAA));
        assert_eq!(Type::from_mnemonic("TYPE65280"), Some(Type(65280)));
        assert_eq!(Type::from_mnemonic("TYPE65536"), None);
        assert_eq!(Type::from_mnemonic("é"), None);
    }
}
