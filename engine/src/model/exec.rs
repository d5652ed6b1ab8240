//! Commands executed in a running container.

use super::model;

model! {
    /// A command to execute.
    pub struct ExecCreate {
        /// `user[:group]`; the container's when empty.
        pub user: String,
        /// All capabilities?
        pub privileged: bool,
        /// Allocate a terminal?
        pub tty: bool,
        /// Rows and columns of the terminal.
        #[serde(skip_serializing_if = "Option::is_none")]
        pub console_size: Option<[u32; 2]>,
        /// Attach standard input?
        pub attach_stdin: bool,
        /// Attach standard error?
        pub attach_stderr: bool,
        /// Attach standard output?
        pub attach_stdout: bool,
        /// Old name of the start's own setting; ignored.
        pub detach: bool,
        /// Keys that leave the session.
        pub detach_keys: String,
        /// `NAME=value`, added to the container's.
        pub env: Option<Vec<String>>,
        /// The container's when empty.
        pub working_dir: String,
        /// Program and arguments.
        pub cmd: Option<Vec<String>>,
    }
}

model! {
    /// How to start it.
    pub struct ExecStart {
        /// Do not attach?
        pub detach: bool,
        /// Does the client expect a terminal? Must be as at creation.
        pub tty: bool,
        /// Rows and columns of the terminal.
        #[serde(skip_serializing_if = "Option::is_none")]
        pub console_size: Option<[u32; 2]>,
    }
}

model! {
    /// An exec as the engine describes it.
    pub struct ExecInspect {
        /// Id.
        #[serde(rename = "ID")]
        pub id: String,
        /// Running?
        pub running: bool,
        /// Exit status; null until it ended.
        pub exit_code: Option<i64>,
        /// The process.
        pub process_config: ExecProcessConfig,
        /// Standard input open?
        pub open_stdin: bool,
        /// Standard error open?
        pub open_stderr: bool,
        /// Standard output open?
        pub open_stdout: bool,
        /// Ended, and waiting to be forgotten?
        pub can_remove: bool,
        /// Container.
        #[serde(rename = "ContainerID")]
        pub container_id: String,
        /// Keys that leave the session.
        pub detach_keys: String,
        /// Process id on the host; 0 when not running.
        pub pid: i64,
    }
}

/// The process of an exec. Docker writes this one in lower case.
#[derive(Debug, Clone, PartialEq, Eq, Default, serde::Serialize, serde::Deserialize)]
#[serde(default)]
pub struct ExecProcessConfig {
    /// Terminal?
    pub tty: bool,
    /// Program.
    pub entrypoint: String,
    /// Arguments.
    pub arguments: Vec<String>,
    /// All capabilities?
    #[serde(skip_serializing_if = "Option::is_none")]
    pub privileged: Option<bool>,
    /// User.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub user: String,
}
