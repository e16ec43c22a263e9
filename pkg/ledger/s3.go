package ledger

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	awshttp "github.com/aws/aws-sdk-go-v2/aws/transport/http"
	"github.com/aws/aws-sdk-go-v2/config"
	"github.com/aws/aws-sdk-go-v2/service/s3"
	"github.com/aws/aws-sdk-go-v2/service/s3/types"
	"github.com/aws/smithy-go"
)

// BucketConfig says where a log is copied to, and how it is protected there.
type BucketConfig struct {
	Bucket    string
	Chain     string // what all keys begin with
	Mode      string // COMPLIANCE or GOVERNANCE
	KMSKey    string // encrypts objects at rest; empty leaves it to the bucket
	PathStyle bool   // the bucket is named in the path of addresses, as some other servers need it
}

// Bucket is an S3 bucket with Object Lock.
type Bucket struct {
	BucketConfig

	client *s3.Client
}

// OpenBucket returns the bucket. Credentials, region and endpoint are found as by every AWS tool. It connects to nothing.
func OpenBucket(ctx context.Context, cfg BucketConfig) (*Bucket, error) {
	aws, err := config.LoadDefaultConfig(ctx)
	if err != nil {
		return nil, fmt.Errorf("AWS configuration: %w", err)
	}
	return NewBucket(s3.NewFromConfig(aws, func(o *s3.Options) { o.UsePathStyle = o.UsePathStyle || cfg.PathStyle }), cfg), nil
}

// NewBucket is OpenBucket for whoever has a client.
func NewBucket(client *s3.Client, cfg BucketConfig) *Bucket {
	cfg.Chain = strings.Trim(cfg.Chain, "/") + "/"
	return &Bucket{BucketConfig: cfg, client: client}
}

// Name implements Source.
func (b *Bucket) Name() string { return "bucket" }

// ID names the bucket and the prefix, for the database.
func (b *Bucket) ID() string { return b.Bucket + "/" + strings.TrimSuffix(b.Chain, "/") }

// List implements Source. It reads page after page, all versions and delete markers.
func (b *Bucket) List(ctx context.Context, prefix string, f func(Object) error) error {
	pages := s3.NewListObjectVersionsPaginator(b.client, &s3.ListObjectVersionsInput{Bucket: &b.Bucket, Prefix: aws.String(b.Chain + prefix)})
	for pages.HasMorePages() {
		page, err := pages.NextPage(ctx)
		if err != nil {
			return fmt.Errorf("list the bucket: %w", objectError(err))
		}
		for _, v := range page.Versions {
			err := f(Object{
				Key: strings.TrimPrefix(aws.ToString(v.Key), b.Chain), Version: aws.ToString(v.VersionId), Size: aws.ToInt64(v.Size),
				At: aws.ToTime(v.LastModified), Latest: aws.ToBool(v.IsLatest),
			})
			if err != nil {
				return err
			}
		}
		for _, m := range page.DeleteMarkers {
			err := f(Object{
				Key: strings.TrimPrefix(aws.ToString(m.Key), b.Chain), Version: aws.ToString(m.VersionId),
				At: aws.ToTime(m.LastModified), Latest: aws.ToBool(m.IsLatest), Marker: true,
			})
			if err != nil {
				return err
			}
		}
	}
	return nil
}

// Get implements Source.
func (b *Bucket) Get(ctx context.Context, key, version string) (data []byte, err error) {
	in := &s3.GetObjectInput{Bucket: &b.Bucket, Key: aws.String(b.Chain + key)}
	if version != "" {
		in.VersionId = &version
	}
	out, err := b.client.GetObject(ctx, in)
	if err != nil {
		return nil, objectError(err)
	}
	defer func() { err = errors.Join(err, out.Body.Close()) }()
	data, err = io.ReadAll(io.LimitReader(out.Body, maxObject+1))
	if err != nil {
		return nil, err
	}
	if len(data) > maxObject {
		return nil, fmt.Errorf("%s has more bytes than any object of a log", key)
	}
	return data, nil
}

// objectError tells what storage said apart.
func objectError(err error) error {
	var api smithy.APIError
	var response *awshttp.ResponseError
	switch {
	case errors.As(err, &api) && api.ErrorCode() == "NoSuchBucket": // which is another thing than a bucket without the object
	case errors.As(err, &api) && (api.ErrorCode() == "NoSuchKey" || api.ErrorCode() == "NotFound" || api.ErrorCode() == "NoSuchVersion"):
		return ErrNoObject
	case errors.As(err, &api) && (api.ErrorCode() == "PreconditionFailed" || api.ErrorCode() == "ConditionalRequestConflict"):
		return ErrExists
	case errors.As(err, &response) && response.HTTPStatusCode() == http.StatusPreconditionFailed:
		return ErrExists
	case errors.As(err, &response) && response.HTTPStatusCode() == http.StatusNotFound:
		return ErrNoObject
	}
	if what := remedy(err); what != "" {
		return fmt.Errorf("%w: %s", err, what)
	}
	return err
}

// remedy says what to do about a refusal of storage; empty when it is none that is known. The codes are those of S3
// ("Error responses", List of error codes) and of KMS behind it.
func remedy(err error) string {
	var api smithy.APIError
	if !errors.As(err, &api) {
		return ""
	}
	switch code := api.ErrorCode(); code {
	case "AccessDenied", "AllAccessDisabled":
		return "the bucket's policy or the role's rights refuse it: admin needs s3:PutObject, s3:PutObjectRetention, s3:GetObject, s3:GetObjectVersion, " +
			"s3:GetObjectRetention and s3:ListBucketVersions, and where the policy asks for a key, that key as AUDIT_ANCHOR_KMS_KEY_ID; admin doctor looks at each"
	case "NoSuchBucket":
		return "there is no such bucket: check AUDIT_ANCHOR_BUCKET"
	case "InvalidRequest", "ObjectLockConfigurationNotFoundError", "InvalidBucketState":
		return "does the bucket have Object Lock? It has to be made with it: deploy/terraform/modules/anchors does"
	case "PermanentRedirect", "TemporaryRedirect", "AuthorizationHeaderMalformed", "IllegalLocationConstraintException":
		return "the bucket is in another region: check AWS_REGION"
	case "InvalidAccessKeyId", "SignatureDoesNotMatch", "ExpiredToken", "InvalidToken", "TokenRefreshRequired":
		return "the credentials are not good any more: renew AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or the role"
	case "RequestTimeTooSkewed":
		return "the clock of this machine is wrong: set it by NTP"
	case "SlowDown", "ServiceUnavailable", "InternalError", "RequestTimeout":
		return "storage is busy: it is tried again"
	default:
		if strings.HasPrefix(code, "KMS.") {
			return "the key refuses: AUDIT_ANCHOR_KMS_KEY_ID must name one that is there and enabled, in the bucket's region, and the role needs kms:GenerateDataKey and kms:Decrypt for it"
		}
		return ""
	}
}

// Put implements Storage.
func (b *Bucket) Put(ctx context.Context, key string, data []byte, until time.Time, once bool) error {
	sum := sha256.Sum256(data)
	in := &s3.PutObjectInput{
		Bucket: &b.Bucket, Key: aws.String(b.Chain + key), Body: bytes.NewReader(data), ContentLength: aws.Int64(int64(len(data))),
		ContentType:       aws.String(contentType(key)),
		ChecksumAlgorithm: types.ChecksumAlgorithmSha256, ChecksumSHA256: aws.String(base64.StdEncoding.EncodeToString(sum[:])),
		ObjectLockMode: types.ObjectLockMode(b.Mode), ObjectLockRetainUntilDate: &until,
	}
	if once {
		in.IfNoneMatch = aws.String("*")
	}
	if b.KMSKey != "" {
		in.ServerSideEncryption, in.SSEKMSKeyId = types.ServerSideEncryptionAwsKms, &b.KMSKey
	}
	if _, err := b.client.PutObject(ctx, in); err != nil {
		return objectError(err)
	}
	return nil
}

func contentType(key string) string {
	if strings.HasPrefix(key, "checkpoint") {
		return "text/plain; charset=utf-8"
	}
	return "application/octet-stream"
}

// Holds implements Storage: what storage says of its checksum counts; where it says nothing, its bytes do.
func (b *Bucket) Holds(ctx context.Context, key string, data []byte, until time.Time) error {
	head, err := b.client.HeadObject(ctx, &s3.HeadObjectInput{Bucket: &b.Bucket, Key: aws.String(b.Chain + key), ChecksumMode: types.ChecksumModeEnabled})
	if err != nil {
		return fmt.Errorf("look at %s: %w", key, objectError(err))
	}
	sum := sha256.Sum256(data)
	if told := aws.ToString(head.ChecksumSHA256); told == "" {
		held, err := b.Get(ctx, key, "")
		if err != nil {
			return fmt.Errorf("look at %s: %w", key, err)
		}
		if !bytes.Equal(held, data) {
			return fmt.Errorf("%s: %w", key, errOtherBytes)
		}
	} else if told != base64.StdEncoding.EncodeToString(sum[:]) || aws.ToInt64(head.ContentLength) != int64(len(data)) {
		return fmt.Errorf("%s: %w", key, errOtherBytes)
	}
	if string(head.ObjectLockMode) != b.Mode || head.ObjectLockRetainUntilDate == nil || head.ObjectLockRetainUntilDate.Before(until.Add(-time.Minute)) {
		return fmt.Errorf("%s: %w: mode %q until %v", key, errUnlocked, head.ObjectLockMode, aws.ToTime(head.ObjectLockRetainUntilDate))
	}
	return nil
}

var (
	errOtherBytes = errors.New("the bucket holds other bytes than were put there")
	errUnlocked   = errors.New("the bucket does not protect it as asked")
)

// Extend implements Storage. COMPLIANCE allows lengthening.
func (b *Bucket) Extend(ctx context.Context, key, version string, until time.Time) error {
	in := &s3.PutObjectRetentionInput{
		Bucket: &b.Bucket, Key: aws.String(b.Chain + key), ChecksumAlgorithm: types.ChecksumAlgorithmSha256,
		Retention: &types.ObjectLockRetention{Mode: types.ObjectLockRetentionMode(b.Mode), RetainUntilDate: &until},
	}
	if version != "" {
		in.VersionId = &version
	}
	if _, err := b.client.PutObjectRetention(ctx, in); err != nil {
		return fmt.Errorf("lengthen the retention of %s: %w", key, objectError(err))
	}
	return nil
}
