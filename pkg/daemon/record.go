// The writer of events outlives everything else of a process, so that the last request has its record; and it does not
// outlive the process's patience, so that one whose database is away can be stopped.

package daemon

import (
	"context"
	"log/slog"
	"time"

	"rackgateway/pkg/audit"
)

// StartRecording runs the writer of events beside all else. What it returns ends it: once everything is written, or, after
// patience, with what waits given up, which the log says. It must be called, after all that records has ended, and
// returns when the writer has.
func StartRecording(ctx context.Context, writer *audit.Writer, patience time.Duration, log *slog.Logger) (stop func()) {
	ctx = context.WithoutCancel(ctx)
	writing, giveUp := context.WithCancel(ctx)
	ended := make(chan error, 1)
	go func() { ended <- writer.Run(writing) }()
	return func() {
		closing, cancel := context.WithTimeout(ctx, patience)
		defer cancel()
		err := writer.Close(closing)
		giveUp() // or the process would wait for its database for ever
		if ran := <-ended; err == nil {
			err = ran
		}
		if err != nil {
			log.Error("not every record could be written before the end", "error", err)
		}
	}
}
