//! Guests that misbehave: what becomes of the request, of the plugin, and of the others.

use super::*;

/// Loads a filter that misbehaves in front of well-behaved plugins and places one container.
fn check_filter(mode: &str, reason: &str) {
    let mut unruly = with_filter(&loader(), guest(Kind::Filter, mode));
    let error = place_any(&mut unruly).unwrap_err();
    let start = format!("filter plugin `unruly` failed: {reason}");
    assert!(error.starts_with(&start), "{mode}: {error}");
    let troubles = unruly.troubles();
    assert_eq!(troubles.len(), 1, "{mode}: {troubles:?}");
    assert!(
        troubles[0].starts_with("filter plugin `unruly`: "),
        "{mode}: {troubles:?}"
    );
}

#[test]
fn a_filter_that_fails_refuses_the_request_by_name() {
    check_filter("trap", "trapped: ");
    check_filter("trap-in-prepare", "trapped: ");
    check_filter("trap-in-apply", "trapped: ");
    check_filter("recurse", "trapped: ");
    check_filter("loop", "ran longer than 100ms");
    check_filter("loop-in-prepare", "ran longer than 100ms");
    check_filter("loop-in-apply", "ran longer than 1s");
    check_filter("bomb", "wants more memory than its limit of 16 MiB");
    check_filter("wrong-node", "answered with a node that was no candidate");
    check_filter("too-long", "answered with 2 words to 1 words of candidates");
    check_filter(
        "too-short",
        "answered with 0 words to 1 words of candidates",
    );
    check_filter(
        "stale-forever",
        "says its node table is stale right after it got all of it",
    );
}

#[test]
fn an_answer_too_large_is_refused_however_much_memory_there_is() {
    for mode in ["huge-output", "huge-error"] {
        let mut spec = guest(Kind::Filter, mode);
        for memory_bytes in [16 << 20, 256 << 20] {
            spec.limits.memory_bytes = memory_bytes;
            let error = place_any(&mut with_filter(&loader(), spec.clone())).unwrap_err();
            assert!(
                error.starts_with("filter plugin `unruly` failed: "),
                "{mode}: {error}"
            );
            assert!(error.len() < 10_000, "{mode}: {} bytes", error.len());
        }
    }
}

#[test]
fn an_explanation_that_fails_or_never_ends_leaves_the_refusal_readable() {
    for mode in [
        "trap-in-explain",
        "loop-in-explain",
        "huge-explain",
        "many-explain",
    ] {
        let mut unruly = with_filter(&loader(), guest(Kind::Filter, mode));
        let nowhere = wanting(&[(Directive::Constraint, "node==nowhere")]);
        let error = place(&mut unruly, &nodes(), Fleet::default(), &nowhere).unwrap_err();
        let start = "Unable to find a node that satisfies the following conditions ";
        assert!(error.starts_with(start), "{mode}: {error}");
        assert!(error.len() < 100_000, "{mode}: {} bytes", error.len());
    }
}

#[test]
fn a_filter_may_refuse_in_its_own_words() {
    let mut unruly = with_filter(&loader(), guest(Kind::Filter, "deny"));
    assert_eq!(place_any(&mut unruly).unwrap_err(), "unruly says no");
    assert!(unruly.troubles().is_empty());
    // An error it reports in order fails the request, and says nothing about the instance.
    let mut unruly = with_filter(&loader(), guest(Kind::Filter, "fail"));
    let error = place_any(&mut unruly).unwrap_err();
    assert_eq!(error, "filter plugin `unruly` failed: unruly cannot");
    assert!(unruly.troubles().is_empty());
}

#[test]
fn a_filter_that_refuses_its_settings_or_never_starts_is_not_loaded() {
    for (mode, reason) in [
        ("deny-config", "refuses its settings"),
        ("bomb-in-configure", "failed to start"),
    ] {
        let spec = guest(Kind::Filter, mode);
        let error = loader().load(&[spec]).err().expect("it is not loaded");
        let text = error.reason().to_string();
        assert!(text.contains(reason), "{mode}: {text}");
    }
}

#[test]
fn a_strategy_that_answers_nonsense_is_refused_by_name() {
    for (mode, reason) in [
        (
            "unknown-slot",
            "ranked slot 4000000000, which was no candidate",
        ),
        ("not-a-candidate", "ranked slot 3, which was no candidate"),
        ("duplicates", "ranked slot 0 twice"),
        ("trap", "trapped: "),
        ("loop", "ran longer than 100ms"),
        ("bomb", "wants more memory than its limit of 16 MiB"),
        (
            "stale-forever",
            "says its node table is stale right after it got all of it",
        ),
    ] {
        let specs = [
            builtin(Kind::Filter, "constraint"),
            guest(Kind::Strategy, mode),
        ];
        let error = place_any(&mut scheduler(&loader(), &specs)).unwrap_err();
        let start = format!("strategy plugin `unruly` failed: {reason}");
        assert!(error.starts_with(&start), "{mode}: {error}");
    }
}

#[test]
fn a_fallback_ranks_while_the_strategy_is_out() {
    let strategy = Spec {
        fallback: Some(Box::new(builtin(Kind::Strategy, "spread"))),
        ..guest(Kind::Strategy, "trap")
    };
    let mut placing = scheduler(&loader(), &[strategy]);
    for _ in 0..5 {
        assert_eq!(place_any(&mut placing).unwrap(), ["a", "b", "c"]);
    }
    assert_eq!(placing.troubles().len(), 1, "{:?}", placing.troubles());
}

#[test]
fn a_plugin_that_fails_does_not_disturb_the_others() {
    let loader = loader();
    let mut good = with_filter(&loader, builtin(Kind::Filter, "health"));
    for mode in ["trap", "loop", "bomb", "too-long", "log-flood"] {
        let mut bad = with_filter(&loader, guest(Kind::Filter, mode));
        // Whether it fails or only floods the log, the other scheduler must not notice.
        let _ = place_any(&mut bad);
        assert_eq!(place_any(&mut good).unwrap(), ["a", "b", "c"], "{mode}");
    }
}

#[test]
fn a_guest_built_for_wasi_decides_without_being_granted_anything() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/guests/dist/wasi-filter.wasm");
    let spec = Spec {
        limits: Limits {
            call: Duration::from_secs(30),
            ..Limits::for_kind(Kind::Filter)
        },
        ..Spec::new("wasi", Kind::Filter, Source::File(path))
    };
    let mut placing = with_filter(&loader(), spec);
    assert!(place_any(&mut placing).is_ok());
}

#[tokio::test]
async fn a_discovery_backend_that_fails_says_so_and_is_asked_again() {
    for (mode, reason) in [
        ("trap", "trapped"),
        ("loop", "ran longer"),
        ("bomb", "memory"),
        ("fail", ""),
        ("huge-list", ""),
    ] {
        let mut spec = guest(Kind::Discovery, mode);
        spec.settings["addresses"] = json!(["10.0.0.1:2375"]);
        let mut backend =
            tokio::task::spawn_blocking(move || loader().load(&[spec]).unwrap().backends.remove(0))
                .await
                .unwrap();
        for _ in 0..2 {
            let error = backend.next(Duration::ZERO).await.unwrap_err();
            assert_eq!(error.backend, "unruly", "{mode}");
            assert!(error.reason.contains(reason), "{mode}: {}", error.reason);
        }
    }
}

#[test]
fn a_filter_that_may_be_skipped_does_not_refuse() {
    let spec = Spec {
        on_failure: OnFailure::Skip,
        ..guest(Kind::Filter, "trap")
    };
    let mut scheduler = with_filter(&loader(), spec);
    for _ in 0..10 {
        assert_eq!(place_any(&mut scheduler).unwrap(), ["a", "b", "c"]);
    }
}

#[test]
fn one_poisonous_request_does_not_hurt_the_next() {
    let mut scheduler = with_filter(&loader(), guest(Kind::Filter, "trap-on-poison"));
    assert!(place_any(&mut scheduler).is_ok());
    let poison = Request {
        name: "poison".to_owned(),
        ..Request::default()
    };
    let refused = place(&mut scheduler, &nodes(), Fleet::default(), &poison);
    assert!(refused.unwrap_err().contains("`unruly` failed"));
    assert!(place_any(&mut scheduler).is_ok());
}

#[test]
fn a_filter_that_keeps_failing_is_left_alone_for_a_while() {
    let watch = Watch::new();
    let mut scheduler = with_filter(&watch.loader(), guest(Kind::Filter, "trap"));
    let mut refused = || place_any(&mut scheduler).unwrap_err();
    assert!(!refused().contains("tried again"));
    assert!(!refused().contains("tried again"));
    let waiting = refused();
    assert!(waiting.contains("; it is tried again in "), "{waiting}");
    watch.advance(Duration::from_millis(200));
    assert!(!refused().contains("tried again"));
    for _ in 0..2 {
        watch.advance(Duration::from_secs(1));
        refused();
    }
    watch.advance(Duration::from_secs(30));
    assert!(refused().contains("; it is tried again in "));
    watch.advance(Duration::from_secs(30));
    assert!(!refused().contains("tried again"));
}
