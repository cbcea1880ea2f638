//! A panic is one log line, and the end.

/// From here on a panic anywhere logs and aborts.
pub(super) fn abort_on_panic() {
    std::panic::set_hook(Box::new(|info| {
        let payload = info.payload();
        let text = payload
            .downcast_ref::<&str>()
            .copied()
            .or_else(|| payload.downcast_ref::<String>().map(String::as_str))
            .unwrap_or("unknown");
        let location = info.location().map(ToString::to_string).unwrap_or_default();
        let backtrace = std::backtrace::Backtrace::force_capture();
        tracing::error!(
            "log.severity" = "panic",
            error = text,
            location = %location,
            stacktrace = %backtrace,
            "panic"
        );
        std::process::abort();
    }));
}
