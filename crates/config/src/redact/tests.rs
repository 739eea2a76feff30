//! What is shown of URLs and headers.

use super::*;

#[test]
fn only_words_of_urls_are_shown() {
    let check = |url: &str, shown: &str| {
        assert_eq!(Text::plain(url).hiding_all_but_words_of_url().shown, shown, "{url}");
    };
    let key = "9aa3d95b3bc440fa88ea12eaa4456161";
    check(&format!("https://node.example/v3/{key}"), "https://node.example/v3/[redacted]");
    check(&format!("https://{key}.h.example/eth"), "https://[redacted].h.example/eth");
    check(&format!("https://eth-{key}.h/eth"), "https://[redacted].h/eth");
    check(&format!("https://h/{key}/eth?x=1"), "https://h/[redacted]/eth?x=[redacted]");
    check("https://h/?p=hunter2&eth", "https://h/?p=[redacted]&[redacted]");
    check(&format!("https://h?{key}"), "https://h?[redacted]");
    check(&format!("https://h?{key}=1"), "https://h?[redacted]=[redacted]");
    check("https://h/rpc;key=s3cret#s3cret", "https://h/[redacted]#[redacted]");
    check("https://h/12345678901234567890", "https://h/[redacted]");
    check("https://h/hunter2/aBcDeF", "https://h/[redacted]/[redacted]");
    check("https://h/correct-horse-battery-staple", "https://h/[redacted]");
    check("https://h/%6bey%20/x", "https://h/[redacted]/x");
    check("https://user:pass@h/eth", "https://[redacted]@h/eth");
    check("eth:https://h/v3/s3cret", "eth:https://h/v3/[redacted]");
    check("https://h/${NODE_KEY}?token=${T}", "https://h/${NODE_KEY}?token=${T}");
    check("https://h/s3cret${NODE_KEY}", "https://h/[redacted]${NODE_KEY}");
    check("https://h/$${s3cret}", "https://h/[redacted]");
    check("${NODE_URL}", "${NODE_URL}");
    check("https://${NODE_KEY}.h:8545/", "https://${NODE_KEY}.h:8545/");
    // Ordinary URLs stay readable.
    check("https://rpc.example.com/v1/eth?x=1", "https://rpc.example.com/v1/eth?x=[redacted]");
    for ordinary in [
        "http://127.0.0.1:3069/v1",
        "http://[::1]:8545/",
        "http://localhost:8545",
        "http://a-rather-long-host-name.example/ethereum/mainnet",
        "https://1rpc.io/eth",
        "https://ip-10-0-0-12.eu-west-1.compute.internal:8545/",
        "https://geth-node-07.chains.example/ext/bc/C/rpc",
        "https://api.example/v1beta1/base-mainnet/11155111/web3",
        "https://polygon-mainnet.example/polygon-mainnet",
    ] {
        check(ordinary, ordinary);
    }
}

#[test]
fn keys_in_urls_are_not_shown() {
    let check = |url: &str, shown: &str| {
        assert_eq!(Text::plain(url).hiding_keys_of_url().shown, shown, "{url}");
    };
    let key = "9aa3d95b3bc440fa88ea12eaa4456161";
    check(&format!("https://node.example/v3/{key}"), "https://node.example/v3/[redacted]");
    check(&format!("https://h/{key}/eth?x=1"), "https://h/[redacted]/eth?x=1");
    check("https://h/?apikey=K&chain=eth", "https://h/?apikey=[redacted]&chain=eth");
    check("https://h/?apikey=K${T}", "https://h/?apikey=[redacted]${T}");
    check(&format!("https://h?{key}#{key}"), "https://h?[redacted]#[redacted]");
    check("https://h/${NODE_KEY}?token=${T}", "https://h/${NODE_KEY}?token=${T}");
    check("http://127.0.0.1:3069/v1", "http://127.0.0.1:3069/v1");
    let words = "http://a-rather-long-host-name.example/ethereum/mainnet?page=1&q=correct";
    check(words, words);
}

#[test]
fn headers_are_shown_if_they_are_known_to_be_harmless() {
    let check = |name: &str, value: &str, shown: &str| {
        assert_eq!(Text::plain(value).hidden_unless_open(name).shown, shown, "{name}: {value}");
    };
    check("Accept", "application/json", "application/json");
    check("User-Agent", "plimsoll/1", "plimsoll/1");
    check("Host", "rpc.example", "rpc.example");
    check("host", "9aa3d95b3bc440fa.rpc.example", "[redacted].rpc.example");
    check("x-tenant", "eth", "[redacted]");
    check("Authorization", "Bearer abc", "[redacted]");
    check("Authorization", "Bearer ${TOKEN}", "Bearer ${TOKEN}");
    check("x-odd", "s3cret ${TOKEN} $${x", "[redacted]${TOKEN}[redacted]");
}

#[test]
fn secret_headers_keep_placeholders_and_schemes() {
    let check = |name: &str, value: &str, shown: &str| {
        assert_eq!(Text::plain(value).hidden_if_secret(name).shown, shown, "{name}: {value}");
    };
    check("Accept", "hunter2 ${X}", "hunter2 ${X}");
    check("Authorization", "Bearer hunter2", "[redacted]");
    check("Authorization", "Bearer ${TOKEN}", "Bearer ${TOKEN}");
    check("Authorization", "Basic hunter ${TOKEN}", "[redacted]${TOKEN}");
    check("X-Api-Key", "hunter2$${", "[redacted]");
    check("X-Api-Key", "hunter2${K}hunter3{{seq}}", "[redacted]${K}[redacted]{{seq}}");
    check("X-Api-Key", "{{hunter2}}${K}", "[redacted]${K}");
    check("Cookie", "sid=${T}; theme=dark", "sid=${T}; theme=[redacted]");
    check("Cookie", "sid=abc", "[redacted]");
}

#[test]
fn urls_of_plans_keep_what_can_be_read_back() {
    let check = |url: &str, shown: &str| {
        assert_eq!(Text::plain(url).hiding_secrets_of_url().shown, shown, "{url}");
    };
    for kept in [
        "http://h/a/b?x=1&page={{seq}}&author=ann&keyword=k&passengers=2",
        "http://h/tx/9aa3d95b3bc440fa88ea12eaa4456161",
        "http://${USER}:${PASS}@h/?key={{random 1 100}}&token=${T}",
        "h:8080",
    ] {
        check(kept, kept);
    }
    check("http://ann:pa55@h/${X}", "http://[redacted]:[redacted]@h/${X}");
    check("http://ann:pa55@h/$${", "http://[redacted]:[redacted]@h/$${");
    check("http://ann:${P}x@h/{{seq}}", "http://[redacted]:${P}[redacted]@h/{{seq}}");
    check("http://t0ken@h?a@b", "http://[redacted]@h?a@b");
    check(
        "http://h/?apiKey=a&API-TOKEN=b&sig=c&x=1",
        "http://h/?apiKey=[redacted]&API-TOKEN=[redacted]&sig=[redacted]&x=1",
    );
    check(
        "http://h/a;key=b/c?access_token=d${T}",
        "http://h/a;key=[redacted]/c?access_token=[redacted]${T}",
    );
    check("http://h/?credentials[0]=a=b/c;d?e&x=1", "http://h/?credentials[0]=[redacted]&x=1");
    check("/a?next=http://ann:pa55@h/", "/a?next=http://[redacted]:[redacted]@h/");
    check("//ann:pa55@h/", "//[redacted]:[redacted]@h/");
    check("http://h/#access_token=a", "http://h/#[redacted]");
}

#[test]
fn texts_print_only_their_shown_form() {
    let text = Text { value: "s3cret".into(), ..Text::plain("${X}") };
    assert_eq!(format!("{text:?}"), "\"${X}\"");
}
