//! The load engine: workers, dispatch, connections, recorder.
