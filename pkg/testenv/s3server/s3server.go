// Package s3server runs a real S3 server with Object Lock (versity/versitygw over a folder), for tests and the demo.
// It is built from the source by the module file s3.mod, apart from what the gateway is made of.
package s3server

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/credentials"
	"github.com/aws/aws-sdk-go-v2/service/s3"
	"github.com/aws/aws-sdk-go-v2/service/s3/types"
)

const program = "github.com/versity/versitygw/cmd/versitygw"

// Build builds the server, once for each version, and returns where it is. The working directory must be within the
// repository.
func Build(ctx context.Context) (path string, err error) {
	out, err := exec.CommandContext(ctx, "go", "env", "GOMOD").Output()
	if err != nil {
		return "", fmt.Errorf("find the repository: %w", err)
	}
	root := filepath.Dir(strings.TrimSpace(string(out)))
	version, err := versionIn(filepath.Join(root, "s3.mod"))
	if err != nil {
		return "", err
	}
	cache, err := os.UserCacheDir()
	if err != nil {
		return "", fmt.Errorf("find a folder for what is built: %w", err)
	}
	path = filepath.Join(cache, "rack-gateway", "versitygw-"+version)
	if _, err := os.Stat(path); err == nil {
		return path, nil
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o750); err != nil {
		return "", err
	}
	// Several test binaries may build at once: each its own, and the last one that is done stays.
	made := path + "." + rand.Text()
	build := exec.CommandContext(ctx, "go", "build", "-modfile=s3.mod", "-trimpath", "-ldflags=-s -w", "-o", made, program) // #nosec G204 -- our own words
	build.Dir = root
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if text, err := build.CombinedOutput(); err != nil {
		return "", fmt.Errorf("build the S3 server: %w: %s", err, text)
	}
	return path, os.Rename(made, path)
}

func versionIn(file string) (string, error) {
	text, err := os.ReadFile(file) // #nosec G304 -- of the repository
	if err != nil {
		return "", err
	}
	for line := range strings.Lines(string(text)) {
		fields := strings.Fields(strings.TrimPrefix(strings.TrimSpace(line), "require "))
		if len(fields) >= 2 && fields[0] == "github.com/versity/versitygw" {
			return fields[1], nil
		}
	}
	return "", errors.New("s3.mod does not name the S3 server")
}

// Server is one that runs.
type Server struct {
	Endpoint  string // http://127.0.0.1:PORT
	AccessKey string
	SecretKey string

	command *exec.Cmd
	done    chan struct{}
	log     *os.File
}

// Region is the server's.
const Region = "us-east-1"

// Start starts the server over a folder, on a port of this machine, 0 for any that is free. The secrets are made when
// they are empty.
func Start(ctx context.Context, binary, dir string, port int, access, secret string) (*Server, error) {
	if port == 0 {
		listener, err := (&net.ListenConfig{}).Listen(ctx, "tcp", "127.0.0.1:0")
		if err != nil {
			return nil, err
		}
		address, ok := listener.Addr().(*net.TCPAddr)
		if !ok {
			return nil, errors.New("the listener has no port")
		}
		port = address.Port
		if err := listener.Close(); err != nil {
			return nil, err
		}
	}
	if access == "" {
		access, secret = "gateway", rand.Text()
	}
	s := &Server{Endpoint: fmt.Sprintf("http://127.0.0.1:%d", port), AccessKey: access, SecretKey: secret, done: make(chan struct{})}
	for _, sub := range []string{"data", "versions"} {
		if err := os.MkdirAll(filepath.Join(dir, sub), 0o750); err != nil {
			return nil, err
		}
	}
	var err error
	if s.log, err = os.OpenFile(filepath.Join(dir, "log"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600); err != nil { // #nosec G304 -- the folder is the caller's
		return nil, err
	}
	s.command = exec.Command(binary, "--port", fmt.Sprintf("127.0.0.1:%d", port), "--region", Region, "--quiet", "--keep-alive", // #nosec G204 -- built above
		"posix", "--versioning-dir", filepath.Join(dir, "versions"), filepath.Join(dir, "data"))
	s.command.Env = []string{"ROOT_ACCESS_KEY=" + access, "ROOT_SECRET_KEY=" + secret, "PATH=" + os.Getenv("PATH"), "HOME=" + dir}
	s.command.Stdout, s.command.Stderr = s.log, s.log
	s.command.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	endWithParent(s.command.SysProcAttr)
	if err := s.command.Start(); err != nil {
		return nil, errors.Join(fmt.Errorf("start the S3 server: %w", err), s.log.Close())
	}
	go func() {
		defer close(s.done)
		_ = s.command.Wait()
	}()
	if err := s.wait(ctx); err != nil {
		return nil, errors.Join(err, s.Close())
	}
	return s, nil
}

// wait waits until the server answers.
func (s *Server) wait(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	for {
		request, err := http.NewRequestWithContext(ctx, http.MethodGet, s.Endpoint+"/", nil)
		if err != nil {
			return err
		}
		if answer, err := http.DefaultClient.Do(request); err == nil {
			return answer.Body.Close()
		}
		select {
		case <-s.done:
			return fmt.Errorf("the S3 server ended at once: see %s", s.log.Name())
		case <-ctx.Done():
			return fmt.Errorf("the S3 server does not answer: see %s", s.log.Name())
		case <-time.After(20 * time.Millisecond):
		}
	}
}

// Done is closed when the server has ended.
func (s *Server) Done() <-chan struct{} { return s.done }

// Pid is the process that runs.
func (s *Server) Pid() int { return s.command.Process.Pid }

// Close ends the server and waits for it.
func (s *Server) Close() error {
	_ = s.command.Process.Kill()
	<-s.done
	return s.log.Close()
}

// Client is a client with all rights.
func (s *Server) Client() *s3.Client {
	return s3.New(s3.Options{
		BaseEndpoint: &s.Endpoint, Region: Region, UsePathStyle: true,
		Credentials: credentials.NewStaticCredentialsProvider(s.AccessKey, s.SecretKey, ""),
	})
}

// Environ is what AWS tools find the server by.
func (s *Server) Environ() map[string]string {
	return map[string]string{
		"AWS_ENDPOINT_URL_S3": s.Endpoint, "AWS_REGION": Region, "AWS_ACCESS_KEY_ID": s.AccessKey, "AWS_SECRET_ACCESS_KEY": s.SecretKey,
	}
}

// EnsureBucket makes a bucket with versions and Object Lock, where it is not there.
func (s *Server) EnsureBucket(ctx context.Context, name string) error {
	client := s.Client()
	if _, err := client.HeadBucket(ctx, &s3.HeadBucketInput{Bucket: &name}); err == nil {
		return nil
	}
	if _, err := client.CreateBucket(ctx, &s3.CreateBucketInput{Bucket: &name, ObjectLockEnabledForBucket: aws.Bool(true)}); err != nil {
		return fmt.Errorf("make the bucket: %w", err)
	}
	_, err := client.PutBucketVersioning(ctx, &s3.PutBucketVersioningInput{
		Bucket: &name, VersioningConfiguration: &types.VersioningConfiguration{Status: types.BucketVersioningStatusEnabled},
	})
	if err != nil {
		return fmt.Errorf("keep versions in the bucket: %w", err)
	}
	return nil
}

// LockByDefault has the bucket lock, for so many days, what is put there without a lock.
func (s *Server) LockByDefault(ctx context.Context, name string, days int32) error {
	_, err := s.Client().PutObjectLockConfiguration(ctx, &s3.PutObjectLockConfigurationInput{
		Bucket: &name, ObjectLockConfiguration: &types.ObjectLockConfiguration{
			ObjectLockEnabled: types.ObjectLockEnabledEnabled,
			Rule:              &types.ObjectLockRule{DefaultRetention: &types.DefaultRetention{Mode: types.ObjectLockRetentionModeCompliance, Days: &days}},
		},
	})
	if err != nil {
		return fmt.Errorf("lock by default what is put into the bucket: %w", err)
	}
	return nil
}
