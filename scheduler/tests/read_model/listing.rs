//! Listings: order, pages and the bound on their work.

use std::collections::BTreeSet;

use wasmill_protocol::{Payload, TaskSpec, TaskState};
use wasmill_scheduler::read_model::{PAGE_TASKS_MAX, TaskFilter, TaskRow};

use crate::support::{Fed, id, module, spec, started, submitted, succeeded, tenant};

fn labelled(key: &str, value: &str) -> TaskSpec {
    TaskSpec { labels: [(key.to_owned(), value.to_owned())].into(), ..spec("a") }
}

fn ids(tasks: &[TaskRow]) -> Vec<wasmill_protocol::TaskId> {
    tasks.iter().map(|row| row.id).collect()
}

#[tokio::test]
async fn the_newest_come_first_and_pages_join_without_gaps() {
    let mut fed = Fed::new();
    for number in 1..=95 {
        fed.feed([submitted(number, spec(if number % 3 == 0 { "b" } else { "a" }))]);
    }
    let expected: Vec<_> = (1..=95).rev().filter(|number| number % 3 != 0).map(id).collect();
    for limit in [1, 7, 64, 1_000] {
        assert_eq!(ids(&fed.list("a", &TaskFilter::default(), limit).await), expected, "{limit}");
    }
    assert_eq!(fed.list("nobody", &TaskFilter::default(), 10).await, []);
}

#[tokio::test]
async fn a_page_that_holds_the_last_task_says_so() {
    let mut fed = Fed::new();
    fed.feed((1..=10).map(|number| submitted(number, spec("a"))));
    assert!(fed.page("a", &TaskFilter::default(), 10).await.next.is_none());
    assert!(fed.page("a", &TaskFilter::default(), 9).await.next.is_some());
}

#[tokio::test]
async fn a_page_has_an_upper_bound() {
    let mut fed = Fed::new();
    fed.feed((1..=PAGE_TASKS_MAX as u64 + 5).map(|number| submitted(number, spec("a"))));
    let page = fed.page("a", &TaskFilter::default(), 1_000_000).await;
    assert_eq!(page.tasks.len(), PAGE_TASKS_MAX);
    assert_eq!(fed.page("a", &TaskFilter::default(), 0).await.tasks.len(), 1);
}

#[tokio::test]
async fn tasks_that_come_while_pages_are_read_move_nothing() {
    let mut fed = Fed::new();
    fed.feed((1..=20).map(|number| submitted(number, spec("a"))));
    let first = fed.page("a", &TaskFilter::default(), 10).await;
    fed.feed((21..=30).map(|number| submitted(number, spec("a"))));
    let second = fed.model.tasks(&tenant("a"), &TaskFilter::default(), 10, first.next).await.unwrap();
    assert_eq!(ids(&second.tasks), (1..=10).rev().map(id).collect::<Vec<_>>());
}

#[tokio::test]
async fn a_scan_ends_with_the_tasks_that_were_there_when_it_began() {
    let mut fed = Fed::new();
    fed.feed((1..=1_000).map(|number| submitted(number, spec("a"))));
    let scan = fed.model.scan().await.unwrap();
    fed.feed((1_001..=1_010).map(|number| submitted(number, spec("a"))));
    fed.model.flush().await.unwrap();
    let (mut rest, mut seen, mut pages) = (Some(scan), Vec::new(), 0);
    while let Some(scan) = rest {
        let page = fed.model.scan_page(&tenant("a"), &TaskFilter::default(), scan).await.unwrap();
        assert!(page.tasks.len() <= 256, "a page is bounded in bytes");
        seen.extend(ids(&page.tasks));
        (rest, pages) = (page.rest, pages + 1);
    }
    assert_eq!(seen, (1..=1_000).map(id).collect::<Vec<_>>());
    assert!(pages >= 4);
}

#[tokio::test]
async fn large_tasks_make_small_pages_of_a_scan() {
    let mut fed = Fed::new();
    let large = TaskSpec { input: Payload::Inline(vec![b'x'; 32 * 1024].into()), ..spec("a") };
    fed.feed((1..=50).map(|number| submitted(number, large.clone())));
    let scan = fed.model.scan().await.unwrap();
    let page = fed.model.scan_page(&tenant("a"), &TaskFilter::default(), scan).await.unwrap();
    assert_eq!(ids(&page.tasks), (1..=8).map(id).collect::<Vec<_>>());
    assert_eq!(fed.scan("a", &TaskFilter::default()).await.len(), 50);
}

#[tokio::test]
async fn a_listing_sees_what_was_applied_before_it() {
    let mut fed = Fed::new();
    let running = TaskFilter { states: BTreeSet::from([TaskState::Running]), ..TaskFilter::default() };
    for number in 1..=30 {
        fed.feed([submitted(number, spec("a")), started(number, 1)]);
        assert_eq!(ids(&fed.list("a", &running, 100).await), [id(number)]);
        fed.feed([succeeded(number, 1)]);
        assert_eq!(fed.list("a", &running, 100).await, []);
    }
}

#[tokio::test]
async fn labels_are_compared_whole() {
    let mut fed = Fed::new();
    fed.feed([
        submitted(1, labelled("a", "b=c")),
        submitted(2, labelled("a=b", "c")),
        submitted(3, labelled("a", "b")),
        submitted(4, labelled("", "")),
    ]);
    for (key, value, expected) in [("a", "b=c", 1), ("a=b", "c", 2), ("a", "b", 3), ("", "", 4)] {
        let filter = TaskFilter { labels: vec![(key.into(), value.into())], ..TaskFilter::default() };
        assert_eq!(ids(&fed.list("a", &filter, 10).await), [id(expected)]);
    }
}

/// Two filters that each match half of the tasks but never the same: the worst case of an
/// intersection.
#[tokio::test]
async fn a_page_examines_a_bounded_number_of_tasks() {
    const TASKS: u64 = 30_000;
    let mut fed = Fed::new();
    for batch in (0..TASKS).step_by(1_000) {
        fed.feed((batch + 1..=batch + 1_000).map(|number| {
            let even = number % 2 == 0;
            submitted(
                number,
                TaskSpec { module: module(if even { 2 } else { 1 }), ..labelled("odd", &(!even).to_string()) },
            )
        }));
    }
    fed.feed([submitted(TASKS + 1, TaskSpec { module: module(1), ..labelled("odd", "false") })]);
    let wanted =
        TaskFilter { module: Some(module(1)), labels: vec![("odd".into(), "false".into())], ..TaskFilter::default() };
    let page = fed.page("a", &wanted, 10).await;
    assert_eq!(ids(&page.tasks), [id(TASKS + 1)]);
    assert!(page.next.is_some(), "the walk ended early");
    // Going on ends some time, and finds nothing twice.
    assert_eq!(ids(&fed.list("a", &wanted, 10).await), [id(TASKS + 1)]);
}

#[tokio::test]
async fn c27_a_page_of_large_tasks_ends_early_and_goes_on() {
    let mut fed = Fed::new();
    let large = || TaskSpec { args: vec!["\u{1}".repeat(30_000)], ..spec("a") };
    fed.feed((1..=60).map(|number| submitted(number, large())));
    let page = fed.page("a", &TaskFilter::default(), 1_000).await;
    // Each takes 180 KB as JSON.
    assert!((20..=30).contains(&page.tasks.len()), "{}", page.tasks.len());
    assert_eq!(fed.list("a", &TaskFilter::default(), 1_000).await.len(), 60);

    let held = || TaskSpec { input: Payload::inline(vec![7; 32_000].into()), ..spec("b") };
    fed.feed((101..=800).map(|number| submitted(number, held())));
    let page = fed.page("b", &TaskFilter::default(), 1_000).await;
    assert!((400..=600).contains(&page.tasks.len()), "{}", page.tasks.len());
    assert_eq!(fed.list("b", &TaskFilter::default(), 1_000).await.len(), 700);
}
