use proptest::prelude::*;

use super::*;

fn line(arguments: &[&str]) -> String {
    let arguments: Vec<Vec<u8>> = arguments.iter().map(|text| text.as_bytes().to_vec()).collect();
    command_line(&arguments, 10_000)
}

#[test]
fn secrets_are_redacted_however_they_are_written() {
    const SECRET: &str = "hunter2-Zx9";
    let cases: &[(&[&str], &str)] = &[
        (
            &["app", "--password", SECRET, "-v"],
            "app --password [redacted] -v",
        ),
        (&["app", "--password=hunter2-Zx9"], "app --password=[redacted]"),
        (&["app", "-password", SECRET], "app -password [redacted]"),
        (
            &["app", "--db-password", "-hunter2-Zx9"],
            "app --db-password [redacted]",
        ),
        (
            &["env", "PGPASSWORD=hunter2-Zx9", "psql", "-h", "db"],
            "env PGPASSWORD=[redacted] psql -h db",
        ),
        (
            &[
                "java",
                "-Djavax.net.ssl.keyStorePassword=hunter2-Zx9",
                "-jar",
                "a",
            ],
            "java -Djavax.net.ssl.keyStorePassword=[redacted] -jar a",
        ),
        (&["app", "--apiKey=hunter2-Zx9"], "app --apiKey=[redacted]"),
        (
            &["app", "--aws-secret-access-key", SECRET],
            "app --aws-secret-access-key [redacted]",
        ),
        (
            &["app", "--auth-token", SECRET, "run"],
            "app --auth-token [redacted] run",
        ),
        (
            &["mysql", "-uroot", "-phunter2-Zx9", "shop"],
            "mysql -uroot -p[redacted] shop",
        ),
        (
            &["sudo", "mysqldump", "-phunter2-Zx9"],
            "sudo mysqldump -p[redacted]",
        ),
        (
            &["/usr/bin/sshpass", "-p", SECRET, "ssh", "h"],
            "/usr/bin/sshpass -p [redacted] ssh h",
        ),
        (
            &["redis-cli", "-a", SECRET, "info"],
            "redis-cli -a [redacted] info",
        ),
        (
            &["curl", "-u", "ann:hunter2-Zx9", "h"],
            "curl -u ann:[redacted] h",
        ),
        (&["curl", "-uann:hunter2-Zx9", "h"], "curl -uann:[redacted] h"),
        (
            &["curl", "-H", "Authorization: Bearer hunter2-Zx9", "h"],
            "curl -H Authorization: [redacted] h",
        ),
        (
            &["curl", "-H", "X-Api-Key: hunter2-Zx9"],
            "curl -H X-Api-Key: [redacted]",
        ),
        (
            &["app", "postgres://ann:hunter2-Zx9@db:5432/shop?a=b"],
            "app postgres://ann:[redacted]@db:5432/shop?a=b",
        ),
        (
            &["app", "redis://:hunter2-Zx9@cache/0"],
            "app redis://:[redacted]@cache/0",
        ),
        (
            &["app", "amqp://u:hunter2-Zx9/x@mq"],
            "app amqp://u:[redacted]@mq",
        ),
        (
            &["app", "--url=https://u:hunter2-Zx9@h/p"],
            "app --url=https://u:[redacted]@h/p",
        ),
        (
            &["curl", "https://h/p?token=hunter2-Zx9&page=2"],
            "curl https://h/p?token=[redacted]&page=2",
        ),
        (
            &["curl", "-d", r#"{"user":"ann","password":"hunter2-Zx9"}"#],
            r#"curl -d {"user":"ann","password":"[redacted]"}"#,
        ),
        (
            &["sh", "-c", "mysql --password hunter2-Zx9 < a.sql"],
            "sh -c mysql --password [redacted] < a.sql",
        ),
        (
            &["sh", "-c", "mysql --password='hunter2-Zx9 b' -v"],
            "sh -c mysql --password=[redacted] -v",
        ),
        (
            &["sh", "-c", "cd /x; sshpass -p 'a hunter2-Zx9' ssh h"],
            "sh -c cd /x; sshpass -p [redacted] ssh h",
        ),
        (
            &["sh", "-c", "export TOKEN=hunter2-Zx9 && run"],
            "sh -c export TOKEN=[redacted] && run",
        ),
        (
            &["sh", "-c", "curl -H 'Authorization: Bearer hunter2-Zx9' h"],
            "sh -c curl -H 'Authorization:[redacted]' h",
        ),
        (
            &["openssl", "rsa", "-passin", "pass:hunter2-Zx9"],
            "openssl rsa -passin [redacted]",
        ),
        (&["app", "password:", SECRET], "app password: [redacted]"),
        (
            &[
                "git",
                "clone",
                "https://ghp_0123456789abcdefghij0123@github.com/a/b",
            ],
            "git clone https://[redacted]@github.com/a/b",
        ),
        (&["app", "AKIAIOSFODNN7EXAMPLE"], "app [redacted]"),
        (
            &["server", "host=db user=ann password=hunter2-Zx9"],
            "server host=db user=ann password=[redacted]",
        ),
        (
            &["app", "a=1,password=hunter2-Zx9,b=2"],
            "app a=1,password=[redacted],b=2",
        ),
    ];
    for (arguments, expected) in cases {
        let found = line(arguments);
        assert!(!found.contains("hunter2"), "{arguments:?} leaks: {found}");
        assert_eq!(found, *expected, "{arguments:?}");
    }
}

#[test]
fn what_is_no_secret_stays() {
    let cases: &[&[&str]] = &[
        &["app", "--password-file", "/run/secrets/db", "-v"],
        &["app", "--no-password", "serve"],
        &["mysql", "-p", "shop"],
        &["ssh", "-p", "2222", "host"],
        &["nginx:", "worker process"],
        &["app", "--key=/etc/ssl/a.pem", "--port=80"],
        &["curl", "https://host:8080/a?b=c@d"],
        &["curl", "http://[::1]:80/"],
        &["app", "--tokenizer", "bpe"],
        &["python3", "-c", "import os; print(os.getcwd())"],
        &["rsync", "a@host:/path", "/to"],
        &["app", "--author", "ann", "--passive"],
        &["app", "--token-ttl=3600", "--auth-method=ldap"],
    ];
    for arguments in cases {
        assert_eq!(line(arguments), arguments.join(" "));
    }
}

#[test]
fn bytes_that_are_no_text_and_control_characters_are_shown_harmlessly() {
    let found = command_line(&[b"a\xff".to_vec(), b"b\x1b[31m\nc".to_vec()], 100);
    assert!(!found.chars().any(char::is_control), "{found:?}");
    assert_eq!(command_line(&[], 10), "");
    let long = command_line(&[vec![b'x'; 500]], 200);
    assert_eq!(long.chars().count(), 200);
    assert!(long.ends_with('…'));
}

proptest! {
    #[test]
    fn never_panics_and_never_shows_a_named_secret(
        words in proptest::collection::vec("[ -~é]{0,12}", 0..6),
        secret in "[a-zA-Z0-9/+]{12}",
        form in 0_u8..4,
    ) {
        let mut arguments: Vec<String> = vec!["app".into()];
        // What stands before may ask for a value itself; then the option is taken for one, as the program would.
        match form {
            0 => arguments.extend(["--password".to_owned(), secret.clone()]),
            1 => arguments.push(format!("--secret={secret}")),
            2 => arguments.push(format!("DB_TOKEN={secret}")),
            _ => arguments.push(format!("https://u:{secret}@host/")),
        }
        arguments.extend(words);
        let bytes: Vec<Vec<u8>> = arguments.iter().map(|text| text.clone().into_bytes()).collect();
        let found = command_line(&bytes, 10_000);
        prop_assert!(!found.contains(&secret), "{found}");
    }
}
