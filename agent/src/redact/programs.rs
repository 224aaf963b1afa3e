//! Programs whose short options take a password, each by its manual page.

/// How an option takes its secret.
#[derive(Clone, Copy)]
pub(super) enum Form {
    /// Only in the same word: `-pSECRET`. Alone, it asks.
    Attached,
    /// In the same word or the next.
    Separate,
    /// `USER:PASSWORD` in the same word or the next.
    Credentials,
}

/// Programs that run another one: what follows is a command line of its own.
pub(super) const WRAPPERS: &[&str] = &[
    "sudo", "env", "nohup", "timeout", "nice", "ionice", "setsid", "stdbuf", "strace", "exec", "doas",
    "time", "xargs",
];

/// Programs, an option of theirs, and how it takes its secret.
pub(super) const OPTIONS: &[(&[&str], &str, Form)] = &[
    (
        &[
            "mysql",
            "mysqldump",
            "mysqladmin",
            "mysqlimport",
            "mysqlcheck",
            "mysqlshow",
            "mariadb",
            "mariadb-dump",
            "mariadb-admin",
            "mycli",
        ],
        "-p",
        Form::Attached,
    ),
    (&["sshpass"], "-p", Form::Separate),
    (
        &["redis-cli", "redis-benchmark", "valkey-cli"],
        "-a",
        Form::Separate,
    ),
    (&["curl"], "-u", Form::Credentials),
    (&["curl"], "--user", Form::Credentials),
    (&["curl"], "-U", Form::Credentials),
    (&["curl"], "--proxy-user", Form::Credentials),
    (&["curl"], "-b", Form::Separate),
    (&["ab"], "-A", Form::Credentials),
    (&["ab"], "-P", Form::Credentials),
    (&["smbclient", "rpcclient", "net"], "-U", Form::Credentials),
    (
        &["ldapsearch", "ldapadd", "ldapmodify", "ldapdelete", "ldapwhoami"],
        "-w",
        Form::Separate,
    ),
    (
        &["docker", "podman", "buildah", "skopeo", "oc"],
        "-p",
        Form::Separate,
    ),
    (
        &["mongo", "mongosh", "mongodump", "mongorestore"],
        "-p",
        Form::Separate,
    ),
    (&["mosquitto_pub", "mosquitto_sub"], "-P", Form::Separate),
    (&["ipmitool"], "-P", Form::Separate),
    (&["sqlcmd", "bcp"], "-P", Form::Separate),
    (
        &["snmpget", "snmpwalk", "snmpset", "snmpbulkwalk"],
        "-c",
        Form::Separate,
    ),
    (
        &["snmpget", "snmpwalk", "snmpset", "snmpbulkwalk"],
        "-A",
        Form::Separate,
    ),
    (
        &["snmpget", "snmpwalk", "snmpset", "snmpbulkwalk"],
        "-X",
        Form::Separate,
    ),
    (&["unzip", "zip"], "-P", Form::Separate),
    (&["7z", "7za", "7zr"], "-p", Form::Attached),
    (&["xfreerdp", "wlfreerdp"], "/p:", Form::Attached),
    (&["vncviewer"], "-passwd", Form::Separate),
    (&["clickhouse-client"], "--password", Form::Separate),
];
