package testenv

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"
)

type signal = syscall.Signal

const (
	sigTerm = syscall.SIGTERM
	sigKill = syscall.SIGKILL
	sigStop = syscall.SIGSTOP
	sigCont = syscall.SIGCONT
)

// process is a program that runs beside the test, again and again under the same name. It ends with the test
// process, however that ends. Its methods may be called from any goroutine, one at a time.
type process struct {
	name    string
	path    string
	args    []string
	environ []string
	logPath string // what it prints, of all its lives

	mu      sync.Mutex
	running *os.Process
	exited  chan struct{} // closed when it has ended
	state   *os.ProcessState
}

// configure changes the environment that the program is started with next.
func (p *process) configure(config map[string]string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	kept := slices.DeleteFunc(slices.Clone(p.environ), func(entry string) bool {
		name, _, _ := strings.Cut(entry, "=")
		_, changed := config[name]
		return changed
	})
	for name, value := range config {
		if value != "" {
			kept = append(kept, name+"="+value)
		}
	}
	p.environ = kept
}

// start runs the program.
func (p *process) start() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.running != nil {
		return fmt.Errorf("%s runs already", p.name)
	}
	log, err := os.OpenFile(p.logPath, os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
	if err != nil {
		return err
	}
	defer func() { _ = log.Close() }()
	cmd := exec.Command(p.path, p.args...) // #nosec G204 -- our own program, ended by signals
	cmd.Env = p.environ
	cmd.Stdout, cmd.Stderr = log, log
	cmd.SysProcAttr = endsWithUs()
	started, exited := make(chan error), make(chan struct{})
	go func() {
		// The kernel ties the child to the thread that made it, so this thread stays until the child is gone.
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		defer close(exited)
		err := cmd.Start()
		started <- err
		if err == nil {
			_ = cmd.Wait() // how it ended is in its state
		}
	}()
	if err := <-started; err != nil {
		return fmt.Errorf("start %s: %w", p.name, err)
	}
	p.running, p.exited = cmd.Process, exited
	go func() {
		<-exited
		p.mu.Lock()
		defer p.mu.Unlock()
		if p.exited == exited {
			p.running, p.state = nil, cmd.ProcessState
		}
	}()
	return nil
}

// pid is the process's id, or 0 when it does not run.
func (p *process) pid() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.running == nil {
		return 0
	}
	return p.running.Pid
}

func (p *process) signal(sig signal) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.running == nil {
		return fmt.Errorf("%s does not run", p.name)
	}
	if err := p.running.Signal(sig); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return err
	}
	return nil
}

// wait waits until the process has ended and returns its exit code, or -1 when a signal ended it.
func (p *process) wait(ctx context.Context) (int, error) {
	p.mu.Lock()
	exited := p.exited
	p.mu.Unlock()
	if exited == nil {
		return 0, fmt.Errorf("%s was never started", p.name)
	}
	select {
	case <-exited:
	case <-ctx.Done():
		return 0, fmt.Errorf("%s did not end: %w", p.name, ctx.Err())
	}
	for { // the state is noted right after
		p.mu.Lock()
		running, state := p.running, p.state
		p.mu.Unlock()
		if running == nil {
			return state.ExitCode(), nil
		}
		runtime.Gosched()
	}
}

// stop asks the process to end, and kills it when it does not in time. It says nothing when it does not run.
func (p *process) stop(patience time.Duration) error {
	if p.pid() == 0 {
		return nil
	}
	_ = p.signal(sigCont) // a paused process does not hear
	if err := p.signal(sigTerm); err != nil {
		return nil
	}
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	if _, err := p.wait(ctx); err == nil {
		return nil
	}
	_ = p.signal(sigKill)
	_, err := p.wait(context.Background())
	return errors.Join(fmt.Errorf("%s did not end within %s of SIGTERM and was killed", p.name, patience), err)
}

// log is everything the process printed, in all its lives.
func (p *process) log() string {
	text, err := os.ReadFile(p.logPath)
	if err != nil {
		return err.Error()
	}
	return string(text)
}

// tail is the end of the log, in lines.
func (p *process) tail(lines int) string {
	all := strings.Split(strings.TrimRight(p.log(), "\n"), "\n")
	return strings.Join(all[max(0, len(all)-lines):], "\n")
}
