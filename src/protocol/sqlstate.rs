//! The SQLSTATEs we send or look for. The one table of them.

/// Five characters that tell the kind of an error.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct SqlState(pub [u8; 5]);

impl SqlState {
    /// `00000`
    pub const SUCCESSFUL_COMPLETION: Self = Self(*b"00000");
    /// `0A000`
    pub const FEATURE_NOT_SUPPORTED: Self = Self(*b"0A000");
    /// `08P01`
    pub const PROTOCOL_VIOLATION: Self = Self(*b"08P01");
    /// `08006`
    pub const CONNECTION_FAILURE: Self = Self(*b"08006");
    /// `08001`
    pub const CANNOT_CONNECT: Self = Self(*b"08001");
    /// `22023`
    pub const INVALID_PARAMETER_VALUE: Self = Self(*b"22023");
    /// `25006`
    pub const READ_ONLY_TRANSACTION: Self = Self(*b"25006");
    /// `25P02`
    pub const IN_FAILED_TRANSACTION: Self = Self(*b"25P02");
    /// `25P03`
    pub const IDLE_IN_TRANSACTION_TIMEOUT: Self = Self(*b"25P03");
    /// `25P04`
    pub const TRANSACTION_TIMEOUT: Self = Self(*b"25P04");
    /// `26000`
    pub const INVALID_STATEMENT_NAME: Self = Self(*b"26000");
    /// `28000`
    pub const INVALID_AUTHORIZATION: Self = Self(*b"28000");
    /// `28P01`
    pub const INVALID_PASSWORD: Self = Self(*b"28P01");
    /// `34000`
    pub const INVALID_CURSOR_NAME: Self = Self(*b"34000");
    /// `3D000`
    pub const INVALID_CATALOG_NAME: Self = Self(*b"3D000");
    /// `42501`
    pub const INSUFFICIENT_PRIVILEGE: Self = Self(*b"42501");
    /// statement_completion_unknown
    pub const COMPLETION_UNKNOWN: Self = Self(*b"40003");
    /// `42601`
    pub const SYNTAX_ERROR: Self = Self(*b"42601");
    /// `42704`
    pub const UNDEFINED_OBJECT: Self = Self(*b"42704");
    /// `42P05`
    pub const DUPLICATE_PREPARED_STATEMENT: Self = Self(*b"42P05");
    /// `53300`
    pub const TOO_MANY_CONNECTIONS: Self = Self(*b"53300");
    /// `53400`
    pub const CONFIGURATION_LIMIT_EXCEEDED: Self = Self(*b"53400");
    /// `54000`
    pub const PROGRAM_LIMIT_EXCEEDED: Self = Self(*b"54000");
    /// `55000`
    pub const OBJECT_NOT_IN_PREREQUISITE_STATE: Self = Self(*b"55000");
    /// `55006`
    pub const OBJECT_IN_USE: Self = Self(*b"55006");
    /// `57014`
    pub const QUERY_CANCELED: Self = Self(*b"57014");
    /// `57P01`
    pub const ADMIN_SHUTDOWN: Self = Self(*b"57P01");
    /// `57P03`
    pub const CANNOT_CONNECT_NOW: Self = Self(*b"57P03");
    /// `57P05`
    pub const IDLE_SESSION_TIMEOUT: Self = Self(*b"57P05");
    /// `XX000`
    pub const INTERNAL_ERROR: Self = Self(*b"XX000");

    /// From the text in an ErrorResponse; `None` when it is not five ASCII characters.
    pub fn from_bytes(bytes: &[u8]) -> Option<Self> {
        let code: [u8; 5] = bytes.try_into().ok()?;
        code.iter().all(u8::is_ascii_alphanumeric).then_some(Self(code))
    }

    /// The five characters.
    pub fn as_str(&self) -> &str {
        std::str::from_utf8(&self.0).unwrap_or("XX000")
    }
}

impl std::fmt::Display for SqlState {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.as_str())
    }
}
