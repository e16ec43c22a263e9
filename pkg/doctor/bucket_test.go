package doctor

import (
	"context"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/credentials"
	"github.com/aws/aws-sdk-go-v2/service/s3"

	"rackgateway/pkg/testenv/s3server"
)

// storage plays a bucket, as AWS would answer for one, so that what a bucket may lack can be taken from it. The real server
// of the test below says that what this one takes for granted is so.
type storage struct {
	mu                                     sync.Mutex
	noLock, noVersions, noKMS, noRetention bool
	noPolicy, deletes, away                bool
	objects                                map[string]bool
}

func (s *storage) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	s.mu.Lock()
	defer s.mu.Unlock()
	refuse := func(status int, code string) {
		w.WriteHeader(status)
		fmt.Fprintf(w, "<Error><Code>%s</Code><Message>%s</Message></Error>", code, code)
	}
	query := r.URL.Query()
	switch {
	case s.away:
		w.WriteHeader(http.StatusNotImplemented)
	case query.Has("object-lock") && s.noLock:
		refuse(http.StatusNotFound, "ObjectLockConfigurationNotFoundError")
	case query.Has("object-lock") && s.noRetention:
		fmt.Fprint(w, `<ObjectLockConfiguration><ObjectLockEnabled>Enabled</ObjectLockEnabled></ObjectLockConfiguration>`)
	case query.Has("object-lock"):
		fmt.Fprint(w, `<ObjectLockConfiguration><ObjectLockEnabled>Enabled</ObjectLockEnabled><Rule><DefaultRetention><Mode>COMPLIANCE</Mode><Days>400</Days></DefaultRetention></Rule></ObjectLockConfiguration>`)
	case query.Has("versioning") && s.noVersions:
		fmt.Fprint(w, `<VersioningConfiguration></VersioningConfiguration>`)
	case query.Has("versioning"):
		fmt.Fprint(w, `<VersioningConfiguration><Status>Enabled</Status></VersioningConfiguration>`)
	case query.Has("encryption"):
		algorithm := "aws:kms"
		if s.noKMS {
			algorithm = "AES256"
		}
		fmt.Fprintf(w, `<ServerSideEncryptionConfiguration><Rule><ApplyServerSideEncryptionByDefault><SSEAlgorithm>%s</SSEAlgorithm></ApplyServerSideEncryptionByDefault></Rule></ServerSideEncryptionConfiguration>`, algorithm)
	case r.Method == http.MethodHead && !s.objects[r.URL.Path]:
		w.WriteHeader(http.StatusNotFound)
	case r.Method == http.MethodHead:
		w.Header().Set("X-Amz-Object-Lock-Mode", "COMPLIANCE")
		if !s.noVersions {
			w.Header().Set("X-Amz-Version-Id", "v1")
		}
	case r.Method == http.MethodPut && r.Header.Get("X-Amz-Object-Lock-Mode") == "" && !s.noPolicy:
		refuse(http.StatusForbidden, "AccessDenied")
	case r.Method == http.MethodPut && s.noLock:
		refuse(http.StatusBadRequest, "InvalidRequest")
	case r.Method == http.MethodPut:
		s.objects[r.URL.Path] = true
		if !s.noVersions {
			w.Header().Set("X-Amz-Version-Id", "v1")
		}
	case r.Method == http.MethodDelete && s.deletes:
		w.WriteHeader(http.StatusNoContent)
	case r.Method == http.MethodDelete:
		refuse(http.StatusForbidden, "AccessDenied")
	default:
		refuse(http.StatusNotImplemented, "NotImplemented")
	}
}

// bucketOf is a client of a bucket that the test plays.
func bucketOf(t *testing.T, s *storage) *s3.Client {
	t.Helper()
	s.objects = make(map[string]bool)
	server := httptest.NewServer(s)
	t.Cleanup(server.Close)
	return s3.New(s3.Options{
		BaseEndpoint: &server.URL, Region: "eu-central-1", UsePathStyle: true, RetryMaxAttempts: 1,
		Credentials: aws.NewCredentialsCache(credentials.NewStaticCredentialsProvider("key", "secret", "")),
	})
}

func TestEachFaultOfABucketIsCaught(t *testing.T) {
	for _, c := range []struct {
		line    string
		storage *storage
		status  Status
		says    string
	}{
		{"bucket-lock", &storage{}, Pass, "has it"},
		{"bucket-lock", &storage{noLock: true}, Fail, "has none"},
		{"bucket-lock", &storage{away: true}, Unknown, "did not say"},
		{"bucket-versions", &storage{}, Pass, "on"},
		{"bucket-versions", &storage{noVersions: true}, Fail, "off"},
		{"bucket-encryption", &storage{}, Pass, "aws:kms"},
		{"bucket-encryption", &storage{noKMS: true}, Fail, "the provider's key"},
		{"bucket-refuses", &storage{}, Pass, "locks by itself"},
		{"bucket-refuses", &storage{noRetention: true}, Pass, "to take one without a lock"},
		{"bucket-refuses", &storage{noRetention: true, noPolicy: true}, Fail, "took one without a lock"},
		{"bucket-refuses", &storage{noLock: true}, Fail, "takes no locks"},
		{"bucket-refuses", &storage{noVersions: true}, Fail, "no version"},
		{"bucket-refuses", &storage{deletes: true}, Fail, "deleted a canary"},
		{"bucket-refuses", &storage{away: true}, Unknown, "could not be put"},
	} {
		t.Run(c.line+" "+c.says, func(t *testing.T) {
			g := healthy(t)
			g.doctor.S3 = bucketOf(t, c.storage)
			for range 2 { // the second looks at the canary of the first
				if got := g.line(c.line); got.Status != c.status || !strings.Contains(got.Detail, c.says) {
					t.Errorf("%s: %s", got.Status, got.Detail)
				}
			}
			for path := range c.storage.objects {
				if !strings.HasPrefix(path, "/anchors/doctor/") {
					t.Errorf("it touched %s", path)
				}
			}
		})
	}
	g := healthy(t)
	g.doctor.Config.Ledger.AnchorBucket = ""
	if got := g.line("bucket-lock"); got.Status != Unknown || !strings.Contains(got.Detail, "AUDIT_ANCHOR_BUCKET is not set") {
		t.Errorf("%+v", got)
	}
}

// A real server with Object Lock refuses what the checklist tries.
func TestARealBucketRefusesToDeleteTheCanary(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), 8*time.Minute)
	defer cancel()
	binary, err := s3server.Build(ctx)
	if err != nil {
		t.Fatal(err)
	}
	folder, err := os.MkdirTemp("", "rgw-s3-") //nolint:usetesting // what is locked there cannot be removed by the end of the test
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(folder) })
	server, err := s3server.Start(ctx, binary, folder, 0, "", "")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = server.Close() })
	if err := server.EnsureBucket(ctx, "anchors"); err != nil {
		t.Fatal(err)
	}
	g := healthy(t)
	g.doctor.S3 = server.Client()
	for _, id := range []string{"bucket-lock", "bucket-versions"} {
		if got := g.line(id); got.Status != Pass {
			t.Errorf("%+v", got)
		}
	}
	// It has no policy, so that it takes what is not locked; it does refuse to delete.
	if got := g.line("bucket-refuses"); got.Status != Fail || !strings.Contains(got.Detail, "refused to delete a canary, and took one without a lock") {
		t.Errorf("%+v", got)
	}
}
