package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/google/uuid"
	"github.com/jmoiron/sqlx"

	"rackgateway/pkg/adminapi"
	"rackgateway/pkg/audit"
	"rackgateway/pkg/config"
	"rackgateway/pkg/directory"
	"rackgateway/pkg/ledger"
	"rackgateway/pkg/seal"
)

// publicKeys are the keys that checkpoints are trusted by.
type publicKeys struct {
	PublicKey []string `help:"Trust this public key, as admin audit key shows it, or @FILE with one a line. May be given several times." placeholder:"KEY" sep:"none"`
}

// ring reads the keys; empty when none were given.
func (k *publicKeys) ring() (ledger.Keyring, error) {
	var ring ledger.Keyring
	for _, text := range k.PublicKey {
		name, isFile := strings.CutPrefix(text, "@")
		if !isFile {
			ring = append(ring, text)
			continue
		}
		content, err := os.ReadFile(name) // #nosec G304 -- the person's own
		if err != nil {
			return nil, usageError("--public-key: " + err.Error())
		}
		for line := range strings.Lines(string(content)) {
			if line = strings.TrimSpace(line); line != "" {
				ring = append(ring, line)
			}
		}
	}
	if len(ring) > 0 {
		if err := ring.Check(); err != nil {
			return nil, usageError(err.Error())
		}
	}
	return ring, nil
}

type auditVerifyCmd struct {
	output
	publicKeys

	Bucket     bool   `help:"Verify the bucket that AUDIT_ANCHOR_BUCKET names. Without --no-database, against the database too."`
	Dir        string `help:"Verify a copy of the bucket in this folder." placeholder:"FOLDER"`
	NoDatabase bool   `help:"Do without the database; needs --public-key."`
}

func (auditVerifyCmd) Help() string {
	return `Recomputes everything it can reach: events, leaves, tree and signatures, and names the first event that does not fit, and why: edited, deleted, added, reordered, forked, rolled-back, signature, key, tree, checkpoint, mac, object.

Without flags it verifies the database, and the bucket against it when AUDIT_ANCHOR_BUCKET is set. The exit code is 1 when anything does not fit.

Examples:
  admin audit verify --public-key @gateway.pub
  admin audit verify --bucket --no-database --public-key @gateway.pub
  admin audit verify --dir ./copy --no-database --public-key @gateway.pub

With a public key that is kept elsewhere, verification depends neither on the database nor on any secret. Looking at the database is recorded, and so needs AUDIT_MAC_KEY; a bucket or a folder alone needs none.`
}

func (c *auditVerifyCmd) Run(ctx context.Context, p *process) error {
	keys, err := c.ring()
	if err != nil {
		return err
	}
	if c.NoDatabase {
		switch {
		case len(keys) == 0:
			return usageError("--no-database needs --public-key: without either there is nothing to trust")
		case !c.Bucket && c.Dir == "":
			return usageError("--no-database needs --bucket or --dir")
		}
		return c.sources(ctx, p, nil, keys, c.Bucket)
	}
	return p.recording(ctx, func(db *sqlx.DB, key audit.Key, by directory.Actor) error {
		e := by.Event(p.now(), "audit.verify", "")
		e.Decision = audit.DecisionAllow
		if err := audit.Change(ctx, db, key, e, func(*sqlx.Tx) error { return nil }); err != nil {
			return err
		}
		cfg, err := p.configuration()
		if err != nil {
			return err
		}
		macs, err := auditKeys(cfg)
		if err != nil {
			return err
		}
		report, err := ledger.VerifyDatabase(ctx, db, ledger.VerifyOptions{Keys: keys, MACKeys: macs, Progress: p.progress()})
		if err != nil {
			return err
		}
		if err := c.show(p, report); err != nil {
			return err
		}
		if len(keys) == 0 {
			keys = report.Keys
		}
		err = c.sources(ctx, p, db, keys, c.Bucket || c.Dir == "" && cfg.Ledger.AnchorBucket != "")
		if err == nil && !report.Sound() {
			err = errUnsound
		}
		return err
	})
}

// errUnsound is how a verification ends that found something.
var errUnsound = errors.New("not everything fits: keep a copy of what there is, and find out who had access; docs/ledger.md says what each kind means")

// sources verifies what is not the database.
func (c *auditVerifyCmd) sources(ctx context.Context, p *process, db *sqlx.DB, keys ledger.Keyring, withBucket bool) error {
	var list []ledger.Source
	retention := time.Duration(0)
	if withBucket {
		bucket, cfg, err := p.bucket(ctx)
		if err != nil {
			return err
		}
		retention = days(cfg.Ledger.AnchorRetention)
		list = append(list, bucket)
	}
	if c.Dir != "" {
		list = append(list, ledger.Directory(c.Dir))
	}
	sound := true
	for _, source := range list {
		report, err := ledger.VerifySource(ctx, source, ledger.SourceOptions{
			VerifyOptions: ledger.VerifyOptions{Keys: keys, Progress: p.progress()}, DB: db, Retention: retention,
		})
		if err != nil {
			return err
		}
		if err := c.show(p, report); err != nil {
			return err
		}
		sound = sound && report.Sound()
	}
	if !sound {
		return errUnsound
	}
	return nil
}

func (c *auditVerifyCmd) show(p *process, report *ledger.Report) error {
	text := report.String()
	if c.JSON {
		text = string(report.JSON()) + "\n"
	}
	_, err := io.WriteString(p.stdout, text)
	return err
}

// progress tells a person now and then how far something that takes long has come.
func (p *process) progress() func(int64) {
	last := p.now()
	return func(leaves int64) {
		if now := p.now(); now.Sub(last) > 5*time.Second {
			last = now
			fmt.Fprintf(p.stderr, "%d leaves so far\n", leaves)
		}
	}
}

// bucket is the one that the configuration names.
func (p *process) bucket(ctx context.Context) (*ledger.Bucket, *config.Admin, error) {
	cfg, err := p.configuration(keyVariable, databaseVariable)
	if err != nil {
		return nil, nil, err
	}
	if cfg.Ledger.AnchorBucket == "" {
		return nil, nil, usageError("AUDIT_ANCHOR_BUCKET is not set: there is no bucket to look at")
	}
	if cfg.Ledger.AnchorChain == "" || strings.HasPrefix(cfg.Ledger.AnchorChain, "/") {
		return nil, nil, usageError("AUDIT_ANCHOR_CHAIN_ID is not set, and cannot be told from DOMAIN, RACK_ORGANIZATION and RACK_ALIAS")
	}
	bucket, err := openBucket(ctx, cfg)
	return bucket, cfg, err
}

type auditProveCmd struct {
	output // a proof is JSON anyway

	ID     string `arg:"" help:"Id of the event."`
	Output string `short:"o" help:"Write the proof to this file and not to standard output." placeholder:"FILE"`
}

func (auditProveCmd) Help() string {
	return `The proof holds the event, the hashes that lead from it to the root of the tree, and the signed checkpoint. Whoever has the public key checks it offline: admin audit check FILE.`
}

func (c *auditProveCmd) Run(ctx context.Context, p *process) error {
	id, err := uuid.Parse(c.ID)
	if err != nil {
		return usageError("the id of an event looks like 0190b4a0-7a3c-7c1e-9d6f-3b5a1c2d4e5f: admin audit list --json shows it")
	}
	return p.recording(ctx, func(db *sqlx.DB, key audit.Key, by directory.Actor) error {
		e := by.Event(p.now(), "audit.prove", id.String())
		e.Decision = audit.DecisionAllow
		if err := audit.Change(ctx, db, key, e, func(*sqlx.Tx) error { return nil }); err != nil {
			return err
		}
		keys, err := ledger.PublicKeys(ctx, db)
		if err != nil {
			return err
		}
		index, err := ledger.Find(ctx, db, id)
		if err != nil {
			return err
		}
		proof, err := ledger.Prove(ctx, db, keys, index)
		if err != nil {
			return err
		}
		text, err := json.MarshalIndent(proof, "", "  ")
		if err != nil {
			return err
		}
		return p.output(c.Output, func(w io.Writer) error {
			_, err := w.Write(append(text, '\n'))
			return err
		})
	})
}

// output has f write to a file, which is there whole or not at all, or to standard output.
func (p *process) output(name string, f func(io.Writer) error) (err error) {
	if name == "" || name == "-" {
		return f(p.stdout)
	}
	part := name + ".part"
	file, err := os.OpenFile(part, os.O_CREATE|os.O_TRUNC|os.O_WRONLY, 0o600) // #nosec G304 -- the person's own
	if err != nil {
		return err
	}
	if err := errors.Join(f(file), file.Close()); err != nil {
		return errors.Join(err, os.Remove(part))
	}
	return os.Rename(part, name)
}

type auditCheckCmd struct {
	output
	publicKeys

	File string `arg:"" help:"The proof; - for standard input."`
}

func (auditCheckCmd) Help() string {
	return `Offline: it needs neither the database nor any secret, but the public key, which admin audit key shows. The exit code is 1 when the proof does not hold.`
}

func (c *auditCheckCmd) Run(p *process) error {
	keys, err := c.ring()
	if err != nil {
		return err
	}
	if len(keys) == 0 {
		return usageError("--public-key is missing: a proof is checked by the key that its checkpoint is signed with")
	}
	in := p.stdin
	if c.File != "-" {
		file, err := os.Open(c.File)
		if err != nil {
			return err
		}
		defer func() { _ = file.Close() }()
		in = file
	}
	text, err := io.ReadAll(io.LimitReader(in, 1<<20))
	if err != nil {
		return err
	}
	proof, err := ledger.ParseProof(text)
	if err != nil {
		return fmt.Errorf("the proof does not hold: %w", err)
	}
	checkpoint, err := proof.Check(keys)
	if err != nil {
		return fmt.Errorf("the proof does not hold: %w", err)
	}
	return c.say(p, map[string]any{"sound": true, "leaf_index": proof.Index, "origin": checkpoint.Origin, "size": checkpoint.N, "event": json.RawMessage(proof.Event)},
		"The event is leaf %d of the log %s, under its checkpoint of size %d.\n%s\n", proof.Index, checkpoint.Origin, checkpoint.N, proof.Event)
}

type auditKeyCmds struct {
	Show   auditKeyShowCmd   `cmd:"" default:"withargs" help:"Show the public keys that checkpoints are signed with, the newest last."`
	New    auditKeyNewCmd    `cmd:"" help:"Make a signing key, for AUDIT_SIGNING_KEY."`
	Rotate auditKeyRotateCmd `cmd:"" help:"Make a new signing key, where the database keeps it. The next checkpoint is signed with both."`
}

type auditKeyShowCmd struct{ output }

func (c *auditKeyShowCmd) Run(ctx context.Context, p *process) error {
	cfg, err := p.configuration(keyVariable)
	if err != nil {
		return err
	}
	db, err := p.open(ctx, cfg.Database.URL, cfg.Database.Database)
	if err != nil {
		return err
	}
	keys, err := ledger.PublicKeys(ctx, db)
	if err = errors.Join(err, db.Close()); err != nil {
		return err
	}
	if c.JSON {
		if keys == nil {
			keys = ledger.Keyring{}
		}
		return writeJSON(p.stdout, keys)
	}
	if len(keys) == 0 {
		return errors.New("there is no key yet: admin makes one when it first serves")
	}
	for _, key := range keys {
		if _, err := fmt.Fprintln(p.stdout, key); err != nil {
			return err
		}
	}
	return nil
}

type auditKeyNewCmd struct {
	output

	Name string `arg:"" help:"Name of the log: DOMAIN/ORGANIZATION/ALIAS."`
}

func (c *auditKeyNewCmd) Run(p *process) error {
	private, public, err := ledger.NewKey(c.Name)
	if err != nil {
		return usageError(err.Error())
	}
	return c.say(p, map[string]string{"signing_key": private.Reveal(), "public_key": public}, "AUDIT_SIGNING_KEY=%s\nAUDIT_PUBLIC_KEY=%s\n", private.Reveal(), public)
}

type auditKeyRotateCmd struct{ output }

func (c *auditKeyRotateCmd) Run(ctx context.Context, p *process) error {
	cfg, keys, err := p.sealing()
	if err != nil {
		return err
	}
	return p.recording(ctx, func(db *sqlx.DB, key audit.Key, by directory.Actor) error {
		e := by.Event(p.now(), ledger.ActionKey, "")
		e.Decision = audit.DecisionAllow
		public, err := ledger.Rotate(ctx, db, signingKeys(cfg, keys), key, e)
		if err != nil {
			return err
		}
		return c.say(p, map[string]string{"public_key": public}, "%s\nGive it to whoever verifies, beside the one before. Every admin that runs takes it up by itself.\n", public)
	})
}

// sealing reads the keys that secrets at rest are sealed with, besides the configuration.
func (p *process) sealing() (*config.Admin, seal.Keys, error) {
	cfg, err := p.configuration()
	if err != nil {
		return nil, seal.Keys{}, err
	}
	if cfg.Secrets.AppKey.IsZero() {
		return nil, seal.Keys{}, usageError("APP_SECRET_KEY is not set, which the signing key is sealed with")
	}
	keys, err := seal.NewKeys(cfg.Secrets.AppKey, cfg.Secrets.AppKeyPrevious)
	return cfg, keys, err
}

type auditAnchorCmd struct{ output }

func (auditAnchorCmd) Help() string {
	return `Does at once what admin does every AUDIT_ANCHOR_INTERVAL_MINUTES. It may run while admin serves.`
}

func (c *auditAnchorCmd) Run(ctx context.Context, p *process) error {
	bucket, cfg, err := p.bucket(ctx)
	if err != nil {
		return err
	}
	return p.recording(ctx, func(db *sqlx.DB, key audit.Key, by directory.Actor) error {
		e := by.Event(p.now(), "ledger.anchor", bucket.ID())
		e.Decision = audit.DecisionAllow
		if err := audit.Change(ctx, db, key, e, func(*sqlx.Tx) error { return nil }); err != nil {
			return err
		}
		anchor := ledger.NewAnchor(ledger.AnchorConfig{
			DB: db, Storage: bucket, Chain: bucket.ID(), Key: key, Interval: time.Hour, Retention: days(cfg.Ledger.AnchorRetention), Now: p.now,
		})
		anchor.Attempt(ctx, true)
		cursor, err := ledger.CursorOf(ctx, db, ledger.AnchorCursor)
		if err != nil {
			return err
		}
		if cursor != nil && cursor.Trouble != "" {
			return errors.New(cursor.Trouble)
		}
		last, err := ledger.LastAnchor(ctx, db, bucket.ID(), true)
		if err != nil {
			return err
		}
		if last == nil {
			return errors.New("there is nothing to copy yet")
		}
		return c.say(p, map[string]any{"chain": bucket.ID(), "size": last.Size}, "%s holds %d leaves, with their events.\n", bucket.ID(), last.Size)
	})
}

type auditCopyCmd struct {
	output

	Dir string `arg:"" help:"Folder to copy the bucket into."`
}

func (auditCopyCmd) Help() string {
	return `A copy verifies anywhere: admin audit verify --dir FOLDER --no-database --public-key KEY, or any client of C2SP tlog-tiles.`
}

func (c *auditCopyCmd) Run(ctx context.Context, p *process) error {
	bucket, _, err := p.bucket(ctx)
	if err != nil {
		return err
	}
	n, err := ledger.Copy(ctx, bucket, ledger.Directory(c.Dir))
	if err != nil {
		return err
	}
	return c.say(p, map[string]int{"objects": n}, "%d objects.\n", n)
}

type auditExportCmd struct {
	output

	Query    string `arg:"" optional:"" help:"What to export, as a search: actor:ana@acme.com since:7d. Everything by default (kind:all)."`
	Format   string `help:"jsonl or csv." enum:"jsonl,csv" default:"jsonl"`
	Output   string `short:"o" help:"Write to this file, and the checkpoint beside it to FILE.checkpoint." placeholder:"FILE"`
	NoProofs bool   `help:"Leave out the proof of each event."`
}

func (auditExportCmd) Help() string {
	return `In the order of the ledger. JSON Lines begin with the checkpoint and the public keys; each event has its place and its proof.

Examples:
  admin audit export -o all.jsonl
  admin audit export 'app:web decision:deny since:30d' --format csv -o refused.csv`
}

func (c *auditExportCmd) Run(ctx context.Context, p *process) error {
	text := c.Query
	if strings.TrimSpace(text) == "" {
		text = "kind:all"
	}
	query, err := audit.ParseQuery(text, p.now())
	if err != nil {
		return usageError("the search cannot be read: " + err.Error())
	}
	return p.recording(ctx, func(db *sqlx.DB, key audit.Key, by directory.Actor) error {
		exporter, err := ledger.NewExporter(ctx, db)
		if err != nil {
			return err
		}
		if exporter == nil {
			return errors.New("nothing has been signed yet: admin does it while it serves")
		}
		e := by.Event(p.now(), "audit.export", "")
		e.Decision = audit.DecisionAllow
		e.Detail.Params.Add("q", text)
		e.Detail.Params.Add("format", c.Format)
		e.Detail.Params.Add("size", strconv.FormatInt(exporter.Checkpoint.N, 10))
		if err := audit.Change(ctx, db, key, e, func(*sqlx.Tx) error { return nil }); err != nil {
			return err
		}
		err = p.output(c.Output, func(w io.Writer) error {
			if c.Format == "csv" && !c.JSON {
				return adminapi.WriteCSV(ctx, w, exporter, query, !c.NoProofs)
			}
			return adminapi.WriteJSONLines(ctx, w, exporter, query, !c.NoProofs)
		})
		if err != nil || c.Output == "" || c.Output == "-" {
			return err
		}
		return p.output(c.Output+".checkpoint", func(w io.Writer) error {
			_, err := io.WriteString(w, exporter.Checkpoint.Note)
			return err
		})
	})
}

type auditRecoverCmd struct {
	output
	publicKeys

	Dir string `help:"From a copy of the bucket in this folder, and not from the bucket." placeholder:"FOLDER"`
	Yes bool   `help:"Do not ask."`
}

func (auditRecoverCmd) Help() string {
	return `For a database that was lost, or replaced by an older one. Stop every admin first; run admin migrate on a new database. It verifies the bucket with the public key, puts back what the database lacks (leaves, hashes, events, the checkpoint), and says in the log what was signed and could not be brought back. It connects as ADMIN_DATABASE_URL, the schema's owner.

A signing key that was kept in the lost database is lost with it: a new one is made, and shown. docs/ledger.md is the guide.`
}

func (c *auditRecoverCmd) Run(ctx context.Context, p *process) error {
	ring, err := c.ring()
	if err != nil {
		return err
	}
	if len(ring) == 0 {
		return usageError("--public-key is missing: without it anybody's log could be put in place of yours")
	}
	cfg, keys, err := p.sealing()
	if err != nil {
		return err
	}
	var source ledger.Source = ledger.Directory(c.Dir)
	if c.Dir == "" {
		if source, _, err = p.bucket(ctx); err != nil {
			return err
		}
	}
	macs, err := auditKeys(cfg)
	if err != nil {
		return err
	}
	if !c.Yes {
		fmt.Fprintf(p.stderr, "This writes the log of the %s into the database. Type yes to go on: ", source.Name())
		line, err := bufio.NewReader(p.stdin).ReadString('\n')
		if err != nil || strings.TrimSpace(line) != "yes" {
			return errors.New("nothing was done")
		}
	}
	db, err := p.open(ctx, cfg.Database.OwnerURL, cfg.Database.Database)
	if err != nil {
		return err
	}
	defer func() { _ = db.Close() }()
	by := directory.Actor{Kind: audit.ActorSystem, ID: "command-line", Label: p.operator, Client: "command-line"}
	e := by.Event(p.now(), ledger.ActionRestored, "")
	e.Decision = audit.DecisionAllow
	done, err := ledger.Recover(ctx, ledger.RecoverConfig{DB: db, Source: source, Keys: ring, Key: macs[0], Signing: signingKeys(cfg, keys), By: e, Now: p.now})
	if err != nil {
		return err
	}
	text := fmt.Sprintf("The %s verifies. The database had %d leaves, and has %d; %d events were put back.\n", source.Name(), done.From, done.Size, done.Events)
	if done.Lost > 0 {
		text += fmt.Sprintf("%d leaves, %d to %d, had been signed and were not copied yet: they are lost, and the log says so. Each proxy's own log may know what they were.\n",
			done.Lost, done.LostFrom(), done.LostTo())
	}
	if done.NewKey != "" {
		text += "A new signing key was made. Its public half, for whoever verifies:\n" + done.NewKey + "\n"
	}
	return c.say(p, map[string]any{"had": done.From, "size": done.Size, "events": done.Events, "lost": done.Lost, "new_key": done.NewKey}, "%s", text)
}
