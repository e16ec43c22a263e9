package ledger_test

import (
	"bytes"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/credentials"
	"github.com/aws/aws-sdk-go-v2/service/s3"
	"github.com/aws/aws-sdk-go-v2/service/s3/types"

	"rackgateway/pkg/ledger"
	"rackgateway/pkg/testenv/s3server"
)

// policy stands before storage, and refuses what the bucket policy of deploy/terraform/modules/anchors denies: the server of
// the tests knows no conditions in policies, so that its requests are judged here, as they come over the wire.
type policy struct {
	retention time.Duration
	kmsKey    string // required when it is not empty
	next      http.Handler

	mu      sync.Mutex
	refused []string // by statement
	passed  int      // puts
}

func (p *policy) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if sid := p.denies(r); sid != "" {
		p.mu.Lock()
		p.refused = append(p.refused, sid)
		p.mu.Unlock()
		_, _ = io.Copy(io.Discard, r.Body)
		w.Header().Set("Content-Type", "application/xml")
		w.WriteHeader(http.StatusForbidden)
		fmt.Fprint(w, `<Error><Code>AccessDenied</Code><Message>Access Denied with an explicit deny in a resource-based policy</Message></Error>`)
		return
	}
	if r.Method == http.MethodPut {
		p.mu.Lock()
		p.passed++
		p.mu.Unlock()
	}
	p.next.ServeHTTP(w, r)
}

// denies names the statement that denies a request.
func (p *policy) denies(r *http.Request) string {
	query := r.URL.Query()
	put := r.Method == http.MethodPut && strings.Count(strings.Trim(r.URL.Path, "/"), "/") > 0 && !query.Has("retention")
	until, err := time.Parse(time.RFC3339, r.Header.Get("X-Amz-Object-Lock-Retain-Until-Date"))
	switch {
	case put && r.Header.Get("X-Amz-Object-Lock-Mode") != "COMPLIANCE":
		return "RefuseUnlocked"
	case put && (err != nil || time.Until(until) < p.retention-24*time.Hour):
		return "RefuseShortLocks"
	case put && p.kmsKey != "" && r.Header.Get("X-Amz-Server-Side-Encryption-Aws-Kms-Key-Id") != p.kmsKey:
		return "RefuseOtherEncryption"
	case r.Method == http.MethodDelete && query.Has("versionId"):
		return "RefuseToDelete"
	case r.Header.Get("X-Amz-Bypass-Governance-Retention") != "":
		return "RefuseToLoosen"
	}
	return ""
}

// served runs the policy, and returns a client that goes by it.
func (p *policy) served(t *testing.T, access, secret string) *s3.Client {
	t.Helper()
	server := httptest.NewServer(p)
	t.Cleanup(server.Close)
	return s3.New(s3.Options{
		BaseEndpoint: &server.URL, Region: s3server.Region, UsePathStyle: true, RetryMaxAttempts: 1,
		Credentials: credentials.NewStaticCredentialsProvider(access, secret, ""),
	})
}

// toTheServer passes requests on to the real one.
func toTheServer(t *testing.T) (http.Handler, *s3server.Server) {
	t.Helper()
	usedServer.Store(true)
	server, err := theServer()
	if err != nil {
		t.Fatal(err)
	}
	to, err := url.Parse(server.Endpoint)
	if err != nil {
		t.Fatal(err)
	}
	return &httputil.ReverseProxy{Rewrite: func(r *httputil.ProxyRequest) {
		r.SetURL(to)
		r.Out.Host = r.In.Host // which the signature is over
	}}, server
}

// A bucket with the documented policy takes all that we put, and refuses a put without a lock, a lock that is too short, the
// deletion of a version, and an overwrite.
func TestTheDocumentedPolicyTakesOurPutsAndRefusesTheRest(t *testing.T) {
	w, b := newWorld(t), newBucket(t)
	next, server := toTheServer(t)
	p := &policy{retention: 26 * time.Hour, next: next} // two hours at least
	client := p.served(t, server.AccessKey, server.SecretKey)
	guarded := ledger.NewBucket(client, ledger.BucketConfig{Bucket: b.name, Chain: origin, Mode: "COMPLIANCE"})
	w.sequence()
	for range 2 {
		w.write(300)
		w.settled()
		w.anchor(guarded).Attempt(t.Context(), true)
		if trouble := w.trouble(); trouble != "" {
			t.Fatal(trouble)
		}
	}
	if _, err := w.anchor(guarded).Lengthen(t.Context()); err != nil {
		t.Error(err)
	}
	if len(p.refused) > 0 || p.passed < 8 {
		t.Fatalf("of our own %d puts, %v", p.passed, p.refused)
	}
	if report := w.verifySource(guarded, true); !report.Sound() {
		t.Errorf("%s", report)
	}

	key := aws.String(origin + "/tile/0/000")
	head, err := client.HeadObject(t.Context(), &s3.HeadObjectInput{Bucket: &b.name, Key: key})
	if err != nil {
		t.Fatal(err)
	}
	soon, later := time.Now().Add(time.Hour), time.Now().Add(48*time.Hour)
	for name, c := range map[string]struct {
		sid string
		do  func() error
	}{
		"a put without a lock": {"RefuseUnlocked", func() error {
			_, err := client.PutObject(t.Context(), &s3.PutObjectInput{Bucket: &b.name, Key: aws.String(origin + "/x"), Body: strings.NewReader("x")})
			return err
		}},
		"an overwrite without a lock": {"RefuseUnlocked", func() error {
			_, err := client.PutObject(t.Context(), &s3.PutObjectInput{Bucket: &b.name, Key: key, Body: strings.NewReader("x")})
			return err
		}},
		"a lock that anybody with the right may take away": {"RefuseUnlocked", func() error {
			_, err := client.PutObject(t.Context(), &s3.PutObjectInput{Bucket: &b.name, Key: aws.String(origin + "/x"), Body: strings.NewReader("x"),
				ObjectLockMode: types.ObjectLockModeGovernance, ObjectLockRetainUntilDate: &later})
			return err
		}},
		"a lock for an hour": {"RefuseShortLocks", func() error {
			_, err := client.PutObject(t.Context(), &s3.PutObjectInput{Bucket: &b.name, Key: aws.String(origin + "/x"), Body: strings.NewReader("x"),
				ObjectLockMode: types.ObjectLockModeCompliance, ObjectLockRetainUntilDate: &soon})
			return err
		}},
		"the deletion of a version": {"RefuseToDelete", func() error {
			_, err := client.DeleteObject(t.Context(), &s3.DeleteObjectInput{Bucket: &b.name, Key: key, VersionId: head.VersionId})
			return err
		}},
		"an overwrite of what is written once": {"", func() error { return guarded.Put(t.Context(), "tile/0/000", []byte("x"), later, true) }},
	} {
		before := len(p.refused)
		err := c.do()
		if err == nil {
			t.Errorf("%s is taken", name)
		}
		if sids := p.refused[before:]; c.sid != "" && (len(sids) != 1 || sids[0] != c.sid) {
			t.Errorf("%s is refused by %v, want %s: %v", name, sids, c.sid, err)
		}
	}
	// Without the policy before it, the lock itself still holds.
	if _, err := b.client.DeleteObject(t.Context(), &s3.DeleteObjectInput{Bucket: &b.name, Key: key, VersionId: head.VersionId}); err == nil {
		t.Error("the server deletes a version that is locked")
	}
	if report := w.verifySource(b, true); !report.Sound() {
		t.Errorf("%s", report)
	}
}

// kept plays storage that takes what it is given, or answers everything with one refusal.
type kept struct {
	mu      sync.Mutex
	objects map[string]object
	status  int
	code    string
}

type object struct {
	header http.Header
	data   []byte
}

func (k *kept) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	k.mu.Lock()
	defer k.mu.Unlock()
	data, err := io.ReadAll(r.Body)
	if err != nil {
		w.WriteHeader(http.StatusBadRequest)
		return
	}
	refuse := func(status int, code string) {
		w.WriteHeader(status)
		if r.Method != http.MethodHead {
			fmt.Fprintf(w, "<Error><Code>%s</Code><Message>as the test wants it</Message></Error>", code)
		}
	}
	held, there := k.objects[r.URL.Path]
	switch {
	case k.code != "" && r.Method == http.MethodPut:
		refuse(k.status, k.code)
	case r.Method == http.MethodPut && r.Header.Get("If-None-Match") == "*" && there:
		refuse(http.StatusPreconditionFailed, "PreconditionFailed")
	case r.Method == http.MethodPut:
		k.objects[r.URL.Path] = object{r.Header.Clone(), data}
	case !there:
		refuse(http.StatusNotFound, "NoSuchKey")
	default:
		for _, name := range []string{"X-Amz-Object-Lock-Mode", "X-Amz-Object-Lock-Retain-Until-Date", "X-Amz-Checksum-Sha256"} {
			w.Header().Set(name, held.header.Get(name))
		}
		http.ServeContent(w, r, "", time.Time{}, bytes.NewReader(held.data))
	}
}

// Where the policy asks for a key of KMS, every put names it; another key, or none, is refused, and admin says what that is.
func TestAPolicyThatAsksForAKeyTakesOurPuts(t *testing.T) {
	const arn = "arn:aws:kms:eu-west-1:123456789012:key/1234abcd-12ab-34cd-56ef-1234567890ab"
	w := newWorld(t)
	w.sequence()
	w.write(300)
	w.settled()
	store := &kept{objects: make(map[string]object)}
	p := &policy{retention: 24 * time.Hour, kmsKey: arn, next: store}
	client := p.served(t, "key", "secret")
	with := func(key string) *ledger.Bucket {
		return ledger.NewBucket(client, ledger.BucketConfig{Bucket: "audit", Chain: origin, Mode: "COMPLIANCE", KMSKey: key})
	}
	for _, key := range []string{"", "arn:aws:kms:eu-west-1:123456789012:key/another"} {
		w.anchor(with(key)).Attempt(t.Context(), true)
		if trouble := w.trouble(); !strings.Contains(trouble, "AccessDenied") || !strings.Contains(trouble, "AUDIT_ANCHOR_KMS_KEY_ID") || !strings.Contains(trouble, "policy") {
			t.Errorf("with the key %q: %s", key, trouble)
		}
	}
	if len(store.objects) > 0 || len(p.refused) == 0 || p.refused[0] != "RefuseOtherEncryption" {
		t.Errorf("%d objects, refused %v", len(store.objects), p.refused)
	}
	w.anchor(with(arn)).Attempt(t.Context(), true)
	if trouble := w.trouble(); trouble != "" {
		t.Fatal(trouble)
	}
	for path, o := range store.objects {
		h := o.header
		if h.Get("X-Amz-Server-Side-Encryption") != "aws:kms" || h.Get("X-Amz-Server-Side-Encryption-Aws-Kms-Key-Id") != arn || h.Get("X-Amz-Object-Lock-Mode") != "COMPLIANCE" ||
			h.Get("X-Amz-Checksum-Sha256") == "" || (h.Get("If-None-Match") == "*") == strings.HasSuffix(path, "/checkpoint") {
			t.Errorf("%s was put with %v", path, h)
		}
	}
}

// Whatever storage refuses with, what is said names the refusal, what it is about, and what to do.
func TestARefusalSaysWhatToDo(t *testing.T) {
	w := newWorld(t)
	w.sequence()
	w.write(10)
	w.settled()
	for code, c := range map[string]struct {
		status int
		says   string
	}{
		"AccessDenied":                 {403, "s3:PutObjectRetention"},
		"KMS.NotFoundException":        {400, "AUDIT_ANCHOR_KMS_KEY_ID"},
		"KMS.DisabledException":        {400, "enabled"},
		"KMS.AccessDeniedException":    {400, "kms:GenerateDataKey"},
		"NoSuchBucket":                 {404, "AUDIT_ANCHOR_BUCKET"},
		"InvalidRequest":               {400, "Object Lock"},
		"PermanentRedirect":            {301, "AWS_REGION"},
		"AuthorizationHeaderMalformed": {400, "AWS_REGION"},
		"InvalidAccessKeyId":           {403, "credentials"},
		"SignatureDoesNotMatch":        {403, "credentials"},
		"ExpiredToken":                 {400, "credentials"},
		"RequestTimeTooSkewed":         {403, "clock"},
		"SlowDown":                     {503, "tried again"},
	} {
		p := &policy{retention: time.Hour, next: &kept{objects: make(map[string]object), status: c.status, code: code}}
		bucket := ledger.NewBucket(p.served(t, "key", "secret"), ledger.BucketConfig{Bucket: "audit", Chain: origin, Mode: "COMPLIANCE"})
		w.anchor(bucket).Attempt(t.Context(), true)
		if trouble := w.trouble(); !strings.Contains(trouble, code) || !strings.Contains(trouble, c.says) || !strings.Contains(trouble, "put ") {
			t.Errorf("%s: %s", code, trouble)
		}
	}
}
