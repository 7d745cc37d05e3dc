//! What a leader hears of other control nodes, which ask for their clients.

use tokio::time::Instant;
use wasmill_fabric::{Content, Message, Responder};
use wasmill_protocol::command::Command;
use wasmill_protocol::message::control::{ControlAnswer, ControlCall, ControlRequest};
use wasmill_scheduler_core::io::ReplyTo;
use wasmill_scheduler_node::heard::{CallName, Hearing};
use wasmill_scheduler_node::leading::{CommandName, Input};

use super::Leader;
use crate::driver::dispatch::encode;
use crate::driver::forward;
use crate::driver::waits::CallAnswers;

impl Leader<'_> {
    /// Another node asks for its clients.
    pub(super) fn forwarded(&mut self, message: Message) {
        let Some(responder) = message.responder else { return };
        let bytes = message.content.into_bytes();
        let ControlCall { asker, number, request } = match rmp_serde::from_slice(&bytes) {
            Ok(call) => call,
            Err(error) => {
                tracing::warn!(%error, "another node's request is not readable");
                return;
            }
        };
        let name = CallName { asker, number };
        if let ControlRequest::Commands(commands) = request {
            self.called(name, commands, bytes.len(), responder);
        } else if self.heard.question(name)
            && let Some((request, answered)) = forward::question(request, self.fabric.bus.payload_bytes_max())
        {
            self.asked(request);
            tokio::spawn(async move {
                responder.respond(Content::of(answered.await.unwrap_or(ControlAnswer::LeadershipLost)));
            });
        }
    }

    fn called(&mut self, name: CallName, commands: Vec<Command>, bytes: usize, responder: Responder) {
        let CallName { asker, number } = name;
        match self.heard.commands(self.led_us(), name, bytes, responder) {
            Hearing::Decide => {
                let (first, answered) = self.waits.call(commands.len(), name);
                for ((reply_to, command), place) in (first..).map(ReplyTo).zip(commands).zip(0..) {
                    let name = CommandName { asker, number, place };
                    self.tell(Input::Named { name, reply_to, command: Box::new(command) });
                }
                answered.into_iter().for_each(|answered| self.call_answered(answered));
            }
            Hearing::Tell(responder, answer) => {
                tracing::debug!(asker, number, "another node asks again: its answer was lost");
                responder.respond(answer.into());
            }
            Hearing::Waits | Hearing::Forgotten => {
                tracing::debug!(asker, number, "another node's request came twice");
            }
        }
    }

    /// All commands of a call are decided, and what was done is durable.
    pub(super) fn call_answered(&mut self, CallAnswers { name, answers }: CallAnswers) {
        let answer = encode(&forward::replies(answers));
        for responder in self.heard.answered(name, &answer) {
            responder.respond(answer.clone().into());
        }
    }

    /// The leadership is over: nodes that wait for an answer need not wait any longer.
    pub(super) fn end_calls(self) {
        let lost = encode(&ControlAnswer::LeadershipLost);
        for responder in self.heard.end() {
            responder.respond(lost.clone().into());
        }
    }

    /// For how long this node has led, in microseconds.
    fn led_us(&self) -> u64 {
        u64::try_from(Instant::now().saturating_duration_since(self.began).as_micros()).unwrap_or(u64::MAX)
    }
}
