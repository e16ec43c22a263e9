package doctor

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	awsconfig "github.com/aws/aws-sdk-go-v2/config"
	"github.com/aws/aws-sdk-go-v2/service/s3"
	"github.com/aws/aws-sdk-go-v2/service/s3/types"
	"github.com/aws/smithy-go"
)

func bucketChecks() []check {
	return []check{
		{
			id: "bucket-lock", group: "Bucket", title: "The bucket has Object Lock",
			remedy:  "make a bucket with Object Lock, which cannot be given to one later: deploy/terraform has it",
			examine: withBucket(examineLock),
		},
		{
			id: "bucket-versions", group: "Bucket", title: "The bucket keeps versions",
			remedy:  "switch versioning on",
			examine: withBucket(examineVersioning),
		},
		{
			id: "bucket-encryption", group: "Bucket", title: "The bucket encrypts what is put there, with a key of your own",
			remedy:  "set SSE-KMS as the bucket's default, and AUDIT_ANCHOR_KMS_KEY_ID",
			examine: withBucket(examineBucketEncryption),
		},
		{
			id: "bucket-refuses", group: "Bucket", title: "The bucket really refuses to delete, and to take what is not locked",
			remedy:  "lock in mode COMPLIANCE, and deny unlocked puts by the bucket's policy or give it a default retention: deploy/terraform has both",
			examine: withBucket(examineRefusals),
		},
	}
}

// openBucket is the client of the anchors' bucket, configured as every AWS tool is.
func (d *Doctor) openBucket(ctx context.Context) (*s3.Client, error) {
	if d.S3 != nil {
		return d.S3, nil
	}
	cfg, err := awsconfig.LoadDefaultConfig(ctx)
	if err != nil {
		return nil, fmt.Errorf("AWS configuration: %w", err)
	}
	return s3.NewFromConfig(cfg, func(o *s3.Options) { o.UsePathStyle = o.UsePathStyle || d.Config.Ledger.AnchorPathStyle }), nil
}

// withBucket is for what needs one.
func withBucket(examine func(context.Context, *s3.Client, *Doctor) finding) func(context.Context, *Doctor, *sight) finding {
	return func(ctx context.Context, d *Doctor, _ *sight) finding {
		if d.Config.Ledger.AnchorBucket == "" {
			return unknown("there is no bucket: AUDIT_ANCHOR_BUCKET is not set")
		}
		client, err := d.openBucket(ctx)
		if err != nil {
			return unknown("%v", err)
		}
		return examine(ctx, client, d)
	}
}

// said tells a server's refusal from a server that could not be asked.
func said(err error, codes ...string) bool {
	var api smithy.APIError
	if !errors.As(err, &api) {
		return false
	}
	for _, code := range codes {
		if strings.Contains(api.ErrorCode(), code) {
			return true
		}
	}
	return len(codes) == 0
}

func examineLock(ctx context.Context, client *s3.Client, d *Doctor) finding {
	out, err := client.GetObjectLockConfiguration(ctx, &s3.GetObjectLockConfigurationInput{Bucket: &d.Config.Ledger.AnchorBucket})
	switch {
	case said(err, "ObjectLockConfigurationNotFound"):
		return fail("%s has none", d.Config.Ledger.AnchorBucket)
	case err != nil:
		return unknown("the bucket did not say: %v", err)
	case out.ObjectLockConfiguration == nil || out.ObjectLockConfiguration.ObjectLockEnabled != types.ObjectLockEnabledEnabled:
		return fail("%s has none", d.Config.Ledger.AnchorBucket)
	}
	return pass("%s has it", d.Config.Ledger.AnchorBucket)
}

func examineVersioning(ctx context.Context, client *s3.Client, d *Doctor) finding {
	out, err := client.GetBucketVersioning(ctx, &s3.GetBucketVersioningInput{Bucket: &d.Config.Ledger.AnchorBucket})
	switch {
	case err != nil:
		return unknown("the bucket did not say: %v", err)
	case out.Status != types.BucketVersioningStatusEnabled:
		return fail("they are off")
	}
	return pass("they are on")
}

func examineBucketEncryption(ctx context.Context, client *s3.Client, d *Doctor) finding {
	out, err := client.GetBucketEncryption(ctx, &s3.GetBucketEncryptionInput{Bucket: &d.Config.Ledger.AnchorBucket})
	switch {
	case said(err, "ServerSideEncryptionConfigurationNotFound"):
		return fail("it encrypts nothing by itself")
	case err != nil:
		return unknown("the bucket did not say: %v", err)
	}
	for _, rule := range out.ServerSideEncryptionConfiguration.Rules {
		if by := rule.ApplyServerSideEncryptionByDefault; by != nil && strings.HasPrefix(string(by.SSEAlgorithm), "aws:kms") {
			return pass("by %s", by.SSEAlgorithm)
		}
	}
	return fail("it encrypts with the provider's key, which everybody has who may read the bucket")
}

// canary is what the refusals are tried on: an object of the checklist's own, one a day, locked for a day. Nothing of the
// ledger is ever touched.
func (d *Doctor) canary() string { return "doctor/canary-" + d.Now().UTC().Format(time.DateOnly) }

// canaries has two lists that are examined at once not make two.
type canaries struct{ mu sync.Mutex }

func examineRefusals(ctx context.Context, client *s3.Client, d *Doctor) finding {
	d.canaries.mu.Lock()
	defer d.canaries.mu.Unlock()
	bucket, key := &d.Config.Ledger.AnchorBucket, d.canary()
	version := ""
	if there, err := client.HeadObject(ctx, &s3.HeadObjectInput{Bucket: bucket, Key: &key}); err == nil && there.ObjectLockMode == types.ObjectLockModeCompliance {
		version = aws.ToString(there.VersionId)
	} else {
		in := &s3.PutObjectInput{
			Bucket: bucket, Key: &key, Body: strings.NewReader("a canary of the production checklist\n"), ChecksumAlgorithm: types.ChecksumAlgorithmSha256,
			ObjectLockMode: types.ObjectLockModeCompliance, ObjectLockRetainUntilDate: aws.Time(d.Now().Add(25 * time.Hour).UTC().Truncate(time.Second)),
		}
		if kms := d.Config.Ledger.AnchorKMSKey; kms != "" {
			in.ServerSideEncryption, in.SSEKMSKeyId = types.ServerSideEncryptionAwsKms, &kms
		}
		put, err := client.PutObject(ctx, in)
		switch {
		case said(err, "InvalidRequest", "ObjectLock", "InvalidArgument", "InvalidBucketObjectLockConfiguration"):
			return fail("it takes no locks: %v", err)
		case err != nil:
			return unknown("a canary could not be put there: %v", err)
		}
		version = aws.ToString(put.VersionId)
	}
	if version == "" {
		return fail("an object has no version, so that it can be overwritten")
	}
	_, err := client.DeleteObject(ctx, &s3.DeleteObjectInput{Bucket: bucket, Key: &key, VersionId: &version})
	if err == nil {
		return fail("it deleted a canary that was locked for a day")
	}
	if !said(err) {
		return unknown("whether a canary can be deleted could not be tried: %v", err)
	}
	lock, err := client.GetObjectLockConfiguration(ctx, &s3.GetObjectLockConfigurationInput{Bucket: bucket})
	if err == nil && lock.ObjectLockConfiguration != nil && lock.ObjectLockConfiguration.Rule != nil && lock.ObjectLockConfiguration.Rule.DefaultRetention != nil {
		return pass("it refused to delete a canary, and locks by itself what is put there without a lock")
	}
	bare := key + "-unlocked"
	put, err := client.PutObject(ctx, &s3.PutObjectInput{Bucket: bucket, Key: &bare, Body: strings.NewReader("unlocked\n"), ChecksumAlgorithm: types.ChecksumAlgorithmSha256})
	switch {
	case err == nil:
		_, _ = client.DeleteObject(ctx, &s3.DeleteObjectInput{Bucket: bucket, Key: &bare, VersionId: put.VersionId}) // it is not locked
		return fail("it refused to delete a canary, and took one without a lock")
	case !said(err):
		return unknown("whether an unlocked object is taken could not be tried: %v", err)
	}
	return pass("it refused to delete a canary, and to take one without a lock")
}
