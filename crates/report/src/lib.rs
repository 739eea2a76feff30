//! What a run showed: summary, verdict, text and JSON.
