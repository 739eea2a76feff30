//! `plimsoll gateway export` and `import`: entries move between SQLite and a real Postgres and back, with
//! their secrets, their keys and their states.

use crate::registry::{done, refused};
use crate::replicas::server::Server;
use crate::run::{Done, Folder, command};
use serde_json::Value;
use std::os::unix::fs::PermissionsExt;

/// Everything that listings say of a database.
fn state(folder: &Folder, database: &str) -> Vec<Value> {
    let lists = ["service list", "upstream list", "endpoint list", "key list"];
    let list = |list: &str| {
        let listed = done(folder, &format!("{list} --format json --database {database}"));
        serde_json::from_str(&listed.stdout).unwrap()
    };
    lists.into_iter().map(list).collect()
}

const SET: &str = "--set NODE_KEY=any --set TOKEN=any";

#[test]
fn entries_move_from_sqlite_to_postgres_and_back() {
    let (folder, server) = (Folder::new(), Server::start());
    let (first, last) = ("sqlite:first.db", "sqlite:last.db");
    for line in [
        "service add base --chain-id 8453 --block-time 2s --compute-units eth_call=26,default=10",
        "service disable kava",
        &format!(
            "upstream add node-a --service base --url http://127.0.0.1:9/${{NODE_KEY}} \
             --header Authorization:${{TOKEN}} --weight 2 {SET}"
        ),
        "upstream add node-b --service eth --url http://127.0.0.1:9/ --header X-Api-Key:s3cret",
        "upstream drain node-b",
        "endpoint add acme --service base --allow eth_* --origin https://a.example --calls 20/s \
         --burst 2s --monthly-compute-units 9000",
        "key add acme --name web --expires 2100-01-01 --calls 5/s",
        "key add acme --name old",
        "endpoint add off --service eth",
        "endpoint disable off",
    ] {
        done(&folder, &format!("{line} --database {first}"));
    }
    let file = folder.path().join("entries.toml");
    let exported = done(&folder, &format!("export --database {first} --output entries.toml"));
    assert_eq!(exported.stdout, "");
    assert!(exported.stderr.contains("exported 6 entries of sqlite:"), "{}", exported.stderr);
    assert!(exported.stderr.contains("with their secrets"), "{}", exported.stderr);
    let mode = std::fs::metadata(&file).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    let text = std::fs::read_to_string(&file).unwrap();
    for part in ["s3cret", "${NODE_KEY}", "${TOKEN}", "disabled = true", "drain = true"] {
        assert!(text.contains(part), "{part}: {text}");
    }
    assert!(text.contains("built_in_disabled = [\"kava\"]"), "{text}");
    assert_eq!(done(&folder, &format!("export --database {first}")).stdout, text);
    let again = format!("export --database {first} --output entries.toml");
    refused(&folder, &again, &["entries.toml already exists", "hint: choose another name"]);

    let postgres = server.url();
    let import = format!("import entries.toml --database {postgres} {SET}");
    let imported = done(&folder, &import);
    let words = "added 5, replaced 0, left 0 unchanged in ";
    assert!(imported.stderr.contains(words), "{}", imported.stderr);
    assert!(imported.stderr.contains("; disabled 2"), "{}", imported.stderr);
    assert_eq!(state(&folder, &postgres), state(&folder, first));
    refused(&folder, &import, &["already exists"]);
    // Nothing of it is new.
    let replaced = done(&folder, &format!("{import} --replace"));
    assert!(!replaced.stderr.contains("disabled"), "{}", replaced.stderr);

    done(&folder, &format!("export --database {postgres} --output back.toml"));
    done(&folder, &format!("import back.toml --database {last} {SET}"));
    assert_eq!(state(&folder, last), state(&folder, first));
    let body = |text: &str| text.split_once('\n').unwrap().1.to_string();
    let back = std::fs::read_to_string(folder.path().join("back.toml")).unwrap();
    assert_eq!(body(&done(&folder, &format!("export --database {last}")).stdout), body(&back));
    // What was drained and disabled can be enabled again.
    for line in ["upstream enable node-b", "endpoint enable off", "service enable kava"] {
        done(&folder, &format!("{line} --database {last}"));
    }
    let left = done(&folder, &format!("export --database {last}")).stdout;
    assert!(!left.contains("drain") && !left.contains("disabled"), "{left}");
}

#[test]
fn what_is_not_exported_is_refused() {
    let folder = Folder::new();
    refused(&folder, "export", &["plimsoll.db: it does not exist yet", "hint: run the command"]);
    refused(&folder, "export --database off", &["it does not exist yet"]);
    done(
        &folder,
        "upstream add node --service eth --url http://127.0.0.1:9/ --header X-Api-Key:s3cret",
    );
    // A listing has no secrets, and must not replace the entry.
    let shown = done(&folder, "upstream show node").stdout;
    folder.file("shown.toml", shown);
    refused(
        &folder,
        "import shown.toml --replace",
        &["\"[redacted]\" stands in the place of a secret", "headers", "plimsoll gateway export"],
    );
    assert!(done(&folder, "export").stdout.contains("s3cret"));
    for (text, words) in [
        ("built_in_disabled = \"kava\"", "\"built_in_disabled\" is not an array of ids"),
        ("built_in_disabled = [\"nope\"]", "there is no service \"nope\""),
        ("[[endpoint]]\nid = \"e\"\nservice = \"eth\"\ndisabled = 1", "is not true or false"),
        ("built_in = [\"kava\"]", "\"built_in\" is not a kind of entry"),
    ] {
        folder.file("bad.toml", text);
        refused(&folder, "import bad.toml", &[words]);
    }
    let mut through = command(&["gateway", "export", "--admin", "http://127.0.0.1:1"]);
    through.env("PLIMSOLL_ADMIN_TOKEN", "t").current_dir(folder.path());
    let through: Done = through.output().unwrap().into();
    assert_eq!(through.code, 2);
    assert!(through.stderr.contains("export reads the database, not the admin API"));
}

/// Whoever may add entries must not be able to read the gateway's environment.
#[test]
fn entries_name_only_variables_that_they_may_name() {
    let folder = Folder::new();
    let add = |id: &str, name: &str| {
        format!(
            "upstream add {id} --service eth --url http://127.0.0.1:9/${{{name}}} --set {name}=x"
        )
    };
    for own in ["PLIMSOLL_ADMIN_TOKEN", "PLIMSOLL_X", "PGPASSWORD"] {
        let words = format!("may not use the variable {own}");
        refused(&folder, &add("a", own), &[&words, "entry_variables = "]);
    }
    done(&folder, &add("a", "NODE_KEY"));
    done(&folder, &add("b", "TOKEN"));
    folder.file("gateway.toml", "entry_variables = [\"NODE_*\", \"PGPASSWORD\"]\n");
    done(&folder, &add("c", "PGPASSWORD"));
    refused(&folder, &add("d", "OTHER"), &["may not use the variable OTHER"]);
    let listed: Value =
        serde_json::from_str(&done(&folder, "upstream list --format json").stdout).unwrap();
    let states: Vec<&str> =
        listed.as_array().unwrap().iter().map(|one| one["state"].as_str().unwrap()).collect();
    assert_eq!(states, ["enabled", "refused", "enabled"], "{listed}");
    refused(
        &folder,
        "--set NODE_KEY=x --set TOKEN=x --set PGPASSWORD=x",
        &["upstream \"b\"", "may not use the variable TOKEN"],
    );
}
