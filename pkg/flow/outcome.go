package flow

import (
	"fmt"
	"time"

	"google.golang.org/protobuf/proto"
)

// Outcome is what a decision comes to: events, timers, or a refusal. The zero value is "nothing to do".
type Outcome struct {
	events  []proto.Message
	timers  []timer
	disarm  []string
	refusal *Refusal
	notYet  string
}

type timer struct {
	name    string
	due     time.Time
	message proto.Message
}

// Emit is the outcome of these facts, in this order.
func Emit(events ...proto.Message) Outcome { return Outcome{events: events} }

// Nothing is the outcome of a message that changes nothing, because it comes too late or says nothing new.
func Nothing() Outcome { return Outcome{} }

// NotYet is the outcome of a message that came too early, before something it builds upon: it is tried again later, by the
// step's retry policy.
func NotYet(format string, args ...any) Outcome { return Outcome{notYet: fmt.Sprintf(format, args...)} }

// Also adds facts.
func (o Outcome) Also(events ...proto.Message) Outcome {
	o.events = append(o.events, events...)
	return o
}

// At arms a timer: message comes back to this service when it is due. The name is unique within the saga; a timer that
// is armed stays as it is.
func (o Outcome) At(due time.Time, name string, message proto.Message) Outcome {
	o.timers = append(o.timers, timer{name, due, message})
	return o
}

// Disarm removes a timer of this saga, if it has not gone off.
func (o Outcome) Disarm(name string) Outcome {
	o.disarm = append(o.disarm, name)
	return o
}

// Code says what kind of refusal it is; HTTP has a status for each.
type Code string

// The codes of refusals.
const (
	Invalid  Code = "invalid"   // the command makes no sense: 422
	NotFound Code = "not_found" // there is nothing to apply it to: 404
	Conflict Code = "conflict"  // not in this state: 409
)

// Refusal is the answer to a command that cannot be carried out. Nothing is stored. Events are never refused: what a
// service does not want to do about an event is an event of its own.
type Refusal struct {
	Code Code
	// Name is for programs, such as "item-unavailable".
	Name string
	// Detail is for people: what, why and what to do.
	Detail string
}

// Refuse is the outcome of a command that cannot be carried out.
func Refuse(code Code, name, format string, args ...any) Outcome {
	return Outcome{refusal: &Refusal{Code: code, Name: name, Detail: fmt.Sprintf(format, args...)}}
}

// Error implements error.
func (r *Refusal) Error() string { return r.Name + ": " + r.Detail }
