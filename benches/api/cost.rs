//! What a request costs, by the counters of the database server and of the heap.

use std::{
    alloc::{GlobalAlloc, Layout, System},
    collections::HashMap,
    sync::atomic::{AtomicU64, Ordering},
    time::Duration,
};

use sqlx::MySqlConnection;

use super::{Client, cases::Target};

/// Index entries that a page of 50 may take: five ranges of 51, the merging of their ids, and the photos.
pub const MOST_ROWS: f64 = 800.0;
/// Requests that are counted.
const REQUESTS: u32 = 16;
/// How long a connection's way back into the pool may take; the ping on it counts too.
const SETTLE: Duration = Duration::from_millis(20);

/// Of one request, on average.
pub struct Cost {
    /// Statements executed.
    pub statements: f64,
    /// Statements prepared, none once connections are warm.
    pub prepares: f64,
    /// Pings.
    pub pings: f64,
    /// Entries of indexes and rows that the storage engine was asked for.
    pub rows_read: f64,
    /// Rows sorted.
    pub rows_sorted: f64,
    /// Allocated by this whole process.
    pub kilobytes: f64,
}

/// Asks a few times and looks at the counters before and after. Nobody else uses this server.
pub async fn of(client: &Client, target: &Target, root: &mut MySqlConnection) -> anyhow::Result<Cost> {
    // Warm, on whichever connection of the pool comes next.
    for turn in 0..4 {
        client.get(target, turn).await?;
    }
    tokio::time::sleep(SETTLE).await;
    let before = status(root).await?;
    let idle = status(root).await?;
    let mut heap = 0;
    for turn in 0..REQUESTS {
        let allocated = ALLOCATED.load(Ordering::Relaxed);
        client.get(target, turn as usize).await?;
        heap += ALLOCATED.load(Ordering::Relaxed) - allocated;
        tokio::time::sleep(SETTLE).await;
    }
    let after = status(root).await?;
    // What looking costs by itself is taken off.
    let grown = |name: &str| {
        let at = |counters: &HashMap<String, u64>| counters.get(name).copied().unwrap_or(0);
        mean((at(&after) - at(&idle)).saturating_sub(at(&idle) - at(&before)))
    };
    Ok(Cost {
        statements: grown("Questions"),
        prepares: grown("Com_stmt_prepare"),
        pings: grown("Com_admin_commands"),
        rows_read: ["key", "next", "prev", "rnd", "rnd_next"]
            .iter()
            .map(|way| grown(&format!("Handler_read_{way}")))
            .sum(),
        rows_sorted: grown("Sort_rows"),
        kilobytes: mean(heap) / 1e3,
    })
}

fn mean(sum: u64) -> f64 {
    f64::from(u32::try_from(sum).unwrap_or(u32::MAX)) / f64::from(REQUESTS)
}

async fn status(root: &mut MySqlConnection) -> sqlx::Result<HashMap<String, u64>> {
    let rows: Vec<(String, String)> = sqlx::query_as("SHOW GLOBAL STATUS").fetch_all(root).await?;
    Ok(rows.into_iter().filter_map(|(name, value)| Some((name, value.parse().ok()?))).collect())
}

static ALLOCATED: AtomicU64 = AtomicU64::new(0);

/// The system's allocator, with a counter of bytes.
pub struct Counting;

#[expect(unsafe_code, reason = "an allocator is unsafe by its nature; this one passes everything on as it is")]
// SAFETY: every call goes to the system's allocator unchanged.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        ALLOCATED.fetch_add(layout.size() as u64, Ordering::Relaxed);
        // SAFETY: the caller's promises are passed on.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        // SAFETY: the caller's promises are passed on.
        unsafe { System.dealloc(pointer, layout) }
    }

    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        ALLOCATED.fetch_add(size.saturating_sub(layout.size()) as u64, Ordering::Relaxed);
        // SAFETY: the caller's promises are passed on.
        unsafe { System.realloc(pointer, layout, size) }
    }
}
