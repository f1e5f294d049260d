//! What is wrong with a manifest, without being reason enough to serve nothing.

use std::fmt;
use std::path::PathBuf;

use crate::cluster::model::{Key, Kind};
use crate::source::convert::Invalid;

/// The largest file that is read, in MiB. The largest clusters' dumps are a few tens of MiB.
pub const MAX_FILE_MIB: u64 = 256;

/// Something wrong in one file. Its text says where, what, and what became of it.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Warning {
    /// The file, or the folder that cannot be read.
    pub file: PathBuf,
    /// The object, if it is about one: kind, namespace and name as far as they are known.
    pub object: Option<(Kind, Key)>,
    /// What is wrong.
    pub problem: Problem,
    /// Whether what the file held before goes on being served.
    pub kept: bool,
}

/// What is wrong.
#[derive(Clone, Debug, PartialEq, Eq, Hash, thiserror::Error)]
pub enum Problem {
    /// The file cannot be read.
    #[error("{0}")]
    Unreadable(String),
    /// The path is something else, such as a pipe.
    #[error("neither a file nor a folder")]
    NotAFile,
    /// The folder holds no file that could be a manifest.
    #[error("no file of it is a manifest: *.yaml, *.yml or *.json")]
    NoFile,
    /// There is no object that DNS sees.
    #[error("it holds no Namespace, Service, EndpointSlice or Pod")]
    NoObject,
    /// The file is too large.
    #[error("{mib} MiB are too much: at most {MAX_FILE_MIB} MiB are read")]
    TooLarge {
        /// Its size.
        mib: u64,
    },
    /// The file is not text.
    #[error("not UTF-8")]
    NotUtf8,
    /// The file kept changing while it was read.
    #[error("changed while it was read; tried again soon")]
    Unsettled,
    /// The text is neither YAML nor JSON.
    #[error("{reason}")]
    Syntax {
        /// The line, from 1.
        line: Option<u64>,
        /// The parser's words.
        reason: String,
    },
    /// A document is a list or a scalar.
    #[error("a document that is not a map is not an object of the API")]
    NotAnObject,
    /// A document without kind.
    #[error("a document without kind is not an object of the API")]
    NoKind,
    /// The object is skipped.
    #[error("{0}; the object is skipped")]
    Invalid(Invalid),
    /// One value of the object is ignored.
    #[error("{0}; the value is ignored")]
    Ignored(Invalid),
    /// So are more of them.
    #[error("{0} more of its values are ignored")]
    MoreIgnored(usize),
    /// The API server allocates addresses; nobody does here.
    #[error("spec.clusterIP is missing; the name has no address")]
    NoClusterIp,
    /// The same object was there before.
    #[error("is in {} too; this one is served", .first.display())]
    Again {
        /// The earlier file.
        first: PathBuf,
    },
    /// Manifests that list Namespaces have to list all of them.
    #[error("no manifest has this Namespace, though some list others; names in it do not exist")]
    NoSuchNamespace,
}

impl fmt::Display for Warning {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.file.display())?;
        if let Problem::Syntax { line: Some(line), .. } = &self.problem {
            write!(f, ":{line}")?;
        }
        if let Some((kind, Key { ns, name })) = &self.object {
            let name = if name.is_empty() { "(no name)" } else { name };
            let slash = if ns.is_empty() { "" } else { "/" };
            write!(f, ": {} {ns}{slash}{name}", kind.name())?;
        }
        write!(f, ": {}", self.problem)?;
        if self.kept { f.write_str("; its last good state is served") } else { Ok(()) }
    }
}
