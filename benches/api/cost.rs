//! The cost of a request by the counters of the database server and of the heap.

use std::{
    alloc::{GlobalAlloc, Layout, System},
    collections::HashMap,
    sync::atomic::{AtomicU64, Ordering},
    time::Duration,
};

use sqlx::MySqlConnection;

use super::{Client, cases::Target};

/// The maximum of index entries for a page of 50: five ranges of 51, merging their ids, and the photos.
pub const MOST_ROWS: f64 = 800.0;
/// The number of measured requests.
const REQUESTS: u32 = 16;
/// Time for a connection to return to the pool, including its ping.
const SETTLE: Duration = Duration::from_millis(20);

/// The average cost of a request.
pub struct Cost {
    pub statements: f64,
    /// Prepared statements: none on warm connections.
    pub prepares: f64,
    pub pings: f64,
    /// Index entries and rows read from the storage engine.
    pub rows_read: f64,
    pub rows_sorted: f64,
    /// Allocated by the process.
    pub kilobytes: f64,
}

/// Reads the counters before and after some requests. Nothing else uses this server.
pub async fn of(client: &Client, target: &Target, root: &mut MySqlConnection) -> anyhow::Result<Cost> {
    // Warms up all connections of the pool.
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
    // Without the cost of reading the counters.
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
