package notify

// How a notice reads as a mail. Text and HTML are made of the same facts, so that neither says what the other does not.

import (
	"bytes"
	_ "embed" // the template
	"fmt"
	"html/template"
	"net/url"
	"regexp"
	"strings"
	"unicode/utf8"
)

//go:embed mail.html
var mailHTML string

// mail is a notice as it goes out.
type mail struct {
	Subject, Text, HTML string
}

// view is what the template and the text are made of.
type view struct {
	Gateway  string
	Headline string
	Lead     string
	Details  []fact
	Parts    []viewPart
	Advice   string
	Link     string
	LinkText string
	Settings string
	Why      string
}

// viewPart is one topic of a digest.
type viewPart struct {
	Title string
	Items []viewItem
	More  string
}

type viewItem struct{ Text, When, Link string }

// schemes find where an address begins that mail programs and Slack would make a link of.
var schemes = regexp.MustCompile(`(?i)[a-z][a-z0-9+.-]*://`)

// inert is a text without addresses that become links, but those of the gateway's own pages: whoever chooses a user agent
// or a name must not send the readers of notices anywhere.
func inert(text string, console *url.URL) string {
	own := console.Scheme + "://" + console.Host
	var b strings.Builder
	rest := 0
	for _, at := range schemes.FindAllStringIndex(text, -1) {
		after, found := strings.CutPrefix(text[at[0]:], own)
		if found && (after == "" || after[0] == '/' || after[0] == ' ') {
			continue
		}
		b.WriteString(text[rest:at[1]-2] + " ")
		rest = at[1] - 2
	}
	b.WriteString(text[rest:])
	return b.String()
}

func viewOf(c *Content, console *url.URL, gateway string) *view {
	safe := func(text string) string { return inert(text, console) }
	v := &view{
		Gateway: gateway, Headline: safe(c.headline()), Lead: safe(c.lead()), Details: c.details(), Advice: c.advice(),
		Settings: console.JoinPath("/console/account").String(),
	}
	for i := range v.Details {
		v.Details[i].Value = safe(v.Details[i].Value)
	}
	v.Link, v.LinkText = c.link(console)
	switch topic, known := topicNamed(c.Topic); {
	case known && topic.Own:
		v.Why = "You get this because it is about the security of your own account."
	case known && topic.Audience == ToAdmins:
		v.Why = "You get this because you administer this gateway. Choose what you hear of under My account."
	default:
		v.Why = "Choose what you hear of under My account."
	}
	if c.Digest == nil {
		return v
	}
	const layout = "2 January 2006, 15:04"
	v.Lead += fmt.Sprintf(" They are of %s to %s (UTC).", c.Digest.Since.UTC().Format(layout), c.Digest.Until.UTC().Format(layout))
	for _, t := range c.Digest.Topics {
		part := viewPart{Title: fmt.Sprintf("%s (%d)", topicTitle(t.Topic), t.Many)}
		for i := range t.Some {
			item := &t.Some[i]
			link, _ := item.link(console)
			part.Items = append(part.Items, viewItem{Text: safe(item.headline()), When: item.At.UTC().Format("2 Jan 15:04"), Link: link})
		}
		if more := t.Many - int64(len(t.Some)); more > 0 {
			part.More = fmt.Sprintf("and %d more", more)
		}
		v.Parts = append(v.Parts, part)
	}
	return v
}

// link is the page of what a notice is about.
func (c *Content) link(console *url.URL) (address, text string) {
	if c.Topic == topicDigest {
		return console.JoinPath("/console/audit").String(), "Open the audit log"
	}
	if c.Leaf < 0 {
		return console.JoinPath("/console/").String(), "Open the console"
	}
	if c.Topic == topicWelcome {
		return console.JoinPath("/login/").String(), "Sign in"
	}
	return console.JoinPath("/console/audit/" + c.Request.String()).String(), "Show the event"
}

// topicTitle is a topic's description as a heading.
func topicTitle(name string) string {
	if t, known := topicNamed(name); known {
		return strings.TrimSuffix(t.Description, ".")
	}
	if action, found := strings.CutPrefix(name, topicChannel+" "); found {
		return action
	}
	return name
}

// mostSubject is how long a subject may be: clients show no more.
const mostSubject = 120

func renderMail(c *Content, console *url.URL, gateway string) (*mail, error) {
	v := viewOf(c, console, gateway)
	t, err := template.New("mail").Parse(mailHTML)
	if err != nil {
		return nil, fmt.Errorf("read the template: %w", err)
	}
	var page bytes.Buffer
	if err := t.Execute(&page, v); err != nil {
		return nil, fmt.Errorf("fill the template: %w", err)
	}
	subject := v.Headline
	if gateway != "" {
		subject += " · " + gateway
	}
	if utf8.RuneCountInString(subject) > mostSubject {
		subject = string([]rune(subject)[:mostSubject-1]) + "…"
	}
	return &mail{Subject: subject, Text: v.text(), HTML: page.String()}, nil
}

// text is the mail without HTML, in lines of 76 characters at most where words allow it (RFC 5322 section 2.1.1).
func (v *view) text() string {
	var b strings.Builder
	paragraph := func(s string) {
		if s != "" {
			b.WriteString(wrapped(s, "", 76) + "\n\n")
		}
	}
	paragraph(v.Headline)
	paragraph(v.Lead)
	width := 0
	for _, f := range v.Details {
		width = max(width, utf8.RuneCountInString(f.Name))
	}
	for _, f := range v.Details {
		label := f.Name + ":" + strings.Repeat(" ", width-utf8.RuneCountInString(f.Name)+1)
		b.WriteString(label + wrapped(f.Value, strings.Repeat(" ", width+2), 76-width-2) + "\n")
	}
	if len(v.Details) > 0 {
		b.WriteByte('\n')
	}
	for _, part := range v.Parts {
		b.WriteString(part.Title + "\n")
		for _, item := range part.Items {
			fmt.Fprintf(&b, "  %12s  %s\n", item.When, wrapped(item.Text, strings.Repeat(" ", 16), 60))
		}
		if part.More != "" {
			b.WriteString("  " + part.More + "\n")
		}
		b.WriteByte('\n')
	}
	paragraph(v.Advice)
	if v.Link != "" {
		b.WriteString(v.LinkText + ":\n" + v.Link + "\n\n")
	}
	b.WriteString("-- \n" + wrapped(strings.TrimSpace("Rack Gateway "+v.Gateway), "", 76) + "\n" + wrapped(v.Why, "", 76) + "\n" + v.Settings + "\n")
	return b.String()
}

// wrapped breaks a text between words, and words that are longer than a line.
func wrapped(text, indent string, width int) string {
	var words []string
	for _, word := range strings.Fields(text) {
		for utf8.RuneCountInString(word) > width {
			runes := []rune(word)
			words, word = append(words, string(runes[:width])), string(runes[width:])
		}
		words = append(words, word)
	}
	var b strings.Builder
	line := 0
	for i, word := range words {
		n := utf8.RuneCountInString(word)
		switch {
		case i == 0:
		case line+1+n > width:
			b.WriteString("\n" + indent)
			line = 0
		default:
			b.WriteByte(' ')
			line++
		}
		b.WriteString(word)
		line += n
	}
	return b.String()
}
