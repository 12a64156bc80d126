//! What the Rust client doesn't offer, through librdkafka's C interface.
#![allow(unsafe_code, reason = "calls into C")]

use crate::log::{Came, Headers, Record};
use bytes::{Bytes, BytesMut};
use rdkafka::bindings as sys;
use rdkafka::consumer::{BaseConsumer, Consumer, ConsumerContext};
use rdkafka::error::RDKafkaErrorCode;
use rdkafka::producer::{BaseProducer, Producer, ProducerContext};
use std::ffi::{CStr, CString, c_int, c_void};
use std::ptr;
use std::sync::Arc;
use std::time::Duration;

fn millis(time: Duration) -> c_int {
    c_int::try_from(time.as_millis()).unwrap_or(c_int::MAX)
}

/// Lets a producer fail as it does when it can't keep its promise of order any more.
#[cfg(test)]
pub(super) fn fail_for_good<C: rdkafka::client::ClientContext>(client: &rdkafka::client::Client<C>) {
    // SAFETY: the client lives as long as the borrow, and so does its handle; the text ends with 0.
    unsafe {
        let code = sys::rd_kafka_resp_err_t::RD_KAFKA_RESP_ERR_OUT_OF_ORDER_SEQUENCE_NUMBER;
        sys::rd_kafka_test_fatal_error(client.native_ptr(), code, c"a test".as_ptr());
    }
}

/// Hands records of one partition to a producer, all of them before the first may be sent: in a transaction they go in one request then. (One by one,
/// those that come after the first request wait for its answer, and the client's thread spins meanwhile.) A record is its key, if it isn't empty, and
/// its value. Returns those that it didn't take, by their places, and why not; where its queue is full, all that come after.
pub(super) fn produce<C>(
    producer: &BaseProducer<C>,
    topic: &CStr,
    partition: i32,
    records: &[(&[u8], Option<&[u8]>)],
) -> Vec<(usize, RDKafkaErrorCode)>
where
    C: ProducerContext<DeliveryOpaque = ()>,
{
    let start = |bytes: &[u8]| bytes.as_ptr().cast_mut().cast::<c_void>();
    let message = |(key, value): &(&[u8], Option<&[u8]>)| sys::rd_kafka_message_t {
        err: sys::rd_kafka_resp_err_t::RD_KAFKA_RESP_ERR_NO_ERROR,
        rkt: ptr::null_mut(),
        partition,
        payload: value.map_or(ptr::null_mut(), start),
        len: value.map_or(0, <[u8]>::len),
        key: if key.is_empty() { ptr::null_mut() } else { start(key) },
        key_len: key.len(),
        offset: 0,
        _private: ptr::null_mut(),
    };
    let mut messages: Vec<sys::rd_kafka_message_t> = records.iter().map(message).collect();
    let count = c_int::try_from(messages.len()).unwrap_or(c_int::MAX);
    // SAFETY: the producer lives as long as the borrow, and so does its handle; the topic's name ends with 0, and its reference is given back once.
    // The messages are as many as is said, keys and values are copied, and the reports of a context without opaque values expect none.
    unsafe {
        let topic = sys::rd_kafka_topic_new(producer.client().native_ptr(), topic.as_ptr(), ptr::null_mut());
        if topic.is_null() {
            return (0..records.len()).map(|place| (place, RDKafkaErrorCode::from(sys::rd_kafka_last_error()))).collect();
        }
        sys::rd_kafka_produce_batch(topic, partition, sys::RD_KAFKA_MSG_F_COPY, messages.as_mut_ptr(), count);
        sys::rd_kafka_topic_destroy(topic);
    }
    let refused = |(place, message): (usize, &sys::rd_kafka_message_t)| {
        (message.err != sys::rd_kafka_resp_err_t::RD_KAFKA_RESP_ERR_NO_ERROR).then(|| (place, message.err.into()))
    };
    messages.iter().enumerate().filter_map(refused).collect()
}

/// What a consumer got.
pub(super) enum Fetched {
    /// A record.
    Record(Record),
    /// Everything before this offset has been got, and for now there is no more.
    End(i64),
    /// A failure.
    Failed(RDKafkaErrorCode),
}

/// A queue of a consumer that gives many records at once, and says at which offset the end of a partition was reached, as the Rust client doesn't.
pub(super) struct Queue<C: ConsumerContext> {
    queue: *mut sys::rd_kafka_queue_t,
    messages: Vec<*mut sys::rd_kafka_message_t>,
    /// Outlives the queue.
    consumer: Arc<BaseConsumer<C>>,
}

// SAFETY: librdkafka's handles may be used from any thread; `&mut self` sees to it that one thread at a time uses the buffer.
unsafe impl<C: ConsumerContext> Send for Queue<C> {}

impl<C: ConsumerContext> Queue<C> {
    /// All that comes to a consumer which assigns partitions to itself; `None` if it has no group. (Of a group's member it would swallow the
    /// rebalances.)
    pub(super) fn of(consumer: Arc<BaseConsumer<C>>) -> Option<Self> {
        // SAFETY: the handle is the consumer's, which this owns a part of; the reference to the queue is given back in `drop`.
        let queue = unsafe { sys::rd_kafka_queue_get_consumer(consumer.client().native_ptr()) };
        (!queue.is_null()).then(|| Self::around(queue, consumer))
    }

    /// What comes of those partitions of a group's member that are [led here](Queue::lead_here). What concerns the group comes to the member itself,
    /// which has to be polled as well.
    pub(super) fn beside(consumer: Arc<BaseConsumer<C>>) -> Self {
        // SAFETY: the handle is the consumer's, which this owns a part of; the queue is destroyed in `drop`.
        let queue = unsafe { sys::rd_kafka_queue_new(consumer.client().native_ptr()) };
        Self::around(queue, consumer)
    }

    fn around(queue: *mut sys::rd_kafka_queue_t, consumer: Arc<BaseConsumer<C>>) -> Self {
        Self { queue, messages: vec![ptr::null_mut(); 1_000], consumer }
    }

    pub(super) fn consumer(&self) -> &BaseConsumer<C> {
        &self.consumer
    }

    /// What comes of a partition comes here once it is assigned, which has to be afterwards, and until it is given up.
    pub(super) fn lead_here(&self, topic: &str, partition: i32) {
        // No topic has a name with 0 in it.
        let Ok(topic) = CString::new(topic) else { return };
        // SAFETY: the consumer lives, the topic's name ends with 0, and the reference to the partition's queue is given back once.
        unsafe {
            let from = sys::rd_kafka_queue_get_partition(self.consumer.client().native_ptr(), topic.as_ptr(), partition);
            if !from.is_null() {
                sys::rd_kafka_queue_forward(from, self.queue);
                sys::rd_kafka_queue_destroy(from);
            }
        }
    }

    /// At most `max` of what there is of a topic, with its partition, or of one of its partitions; waits for `wait` until there are as many. What is
    /// left of others, from before they were given up, is dropped.
    pub(super) fn take(&mut self, topic: &str, partition: Option<i32>, max: usize, wait: Duration) -> Vec<(i32, Fetched)> {
        let room = max.clamp(1, self.messages.len());
        // SAFETY: the buffer has room for that many pointers, and is used by nobody else meanwhile.
        let count = unsafe { sys::rd_kafka_consume_batch_queue(self.queue, millis(wait), self.messages.as_mut_ptr(), room) };
        let messages = &self.messages[..usize::try_from(count).unwrap_or(0)];
        // SAFETY: librdkafka filled the first `count` places with messages that are ours until they are destroyed, each once.
        unsafe {
            // They are copied behind each other: they are read in this order.
            let mut copies = BytesMut::with_capacity(messages.iter().map(|message| (**message).key_len + (**message).len).sum());
            let fetched = messages.iter().filter_map(|message| {
                let fetched = is_of(&**message, topic, partition).then(|| ((**message).partition, fetched(&**message, &mut copies)));
                sys::rd_kafka_message_destroy(*message);
                fetched
            });
            fetched.collect()
        }
    }
}

impl<C: ConsumerContext> Drop for Queue<C> {
    fn drop(&mut self) {
        // SAFETY: the queue's reference was taken in `of`, or made in `beside`, and is given back once; the consumer still lives.
        unsafe { sys::rd_kafka_queue_destroy(self.queue) }
    }
}

/// Whether a message is of the topic, and of the partition if one is given, or of none at all.
///
/// # Safety
/// `message` is a message of librdkafka that hasn't been destroyed.
unsafe fn is_of(message: &sys::rd_kafka_message_t, topic: &str, partition: Option<i32>) -> bool {
    if message.rkt.is_null() {
        return true;
    }
    // SAFETY: as for this function; a topic's name ends with 0, and lives as long as the topic.
    let name = unsafe { CStr::from_ptr(sys::rd_kafka_topic_name(message.rkt)) };
    name.to_bytes() == topic.as_bytes() && partition.is_none_or(|partition| message.partition == partition)
}

/// # Safety
/// `message` is a message of librdkafka that hasn't been destroyed.
unsafe fn fetched(message: &sys::rd_kafka_message_t, copies: &mut BytesMut) -> Fetched {
    match message.err {
        sys::rd_kafka_resp_err_t::RD_KAFKA_RESP_ERR_NO_ERROR => {
            let mut kind = sys::rd_kafka_timestamp_type_t::RD_KAFKA_TIMESTAMP_NOT_AVAILABLE;
            // SAFETY: as for this function.
            let (timestamp, headers) = unsafe { (sys::rd_kafka_message_timestamp(message, &raw mut kind), headers(message)) };
            Fetched::Record(Record {
                offset: message.offset,
                timestamp: timestamp.max(0),
                // SAFETY: key and payload are null, or point to that many bytes that live as long as the message.
                key: unsafe { copied(message.key, message.key_len, copies) }.unwrap_or_default(),
                value: unsafe { copied(message.payload, message.len, copies) },
                headers,
                came: Came::AsItIs,
            })
        }
        sys::rd_kafka_resp_err_t::RD_KAFKA_RESP_ERR__PARTITION_EOF => Fetched::End(message.offset),
        error => Fetched::Failed(error.into()),
    }
}

/// A copy of bytes, behind the other copies.
///
/// # Safety
/// `start` is null, or points to `length` bytes.
unsafe fn copied(start: *const c_void, length: usize, copies: &mut BytesMut) -> Option<Bytes> {
    // SAFETY: as for this function.
    copies.extend_from_slice(unsafe { bytes(start, length) }?);
    Some(copies.split().freeze())
}

/// # Safety
/// `start` is null, or points to `length` bytes that live as long as they are used.
unsafe fn bytes<'a>(start: *const c_void, length: usize) -> Option<&'a [u8]> {
    // SAFETY: as for this function.
    (!start.is_null()).then(|| unsafe { std::slice::from_raw_parts(start.cast::<u8>(), length) })
}

/// # Safety
/// `message` is a message of librdkafka that hasn't been destroyed.
unsafe fn headers(message: &sys::rd_kafka_message_t) -> Headers {
    let mut found = Headers::new();
    let mut list = ptr::null_mut();
    // SAFETY: as for this function. The list is the message's, and lives as long; names end with 0.
    unsafe {
        if sys::rd_kafka_message_headers(message, &raw mut list) != sys::rd_kafka_resp_err_t::RD_KAFKA_RESP_ERR_NO_ERROR {
            return found;
        }
        let (mut name, mut value, mut length) = (ptr::null(), ptr::null(), 0);
        while sys::rd_kafka_header_get_all(list, found.len(), &raw mut name, &raw mut value, &raw mut length)
            == sys::rd_kafka_resp_err_t::RD_KAFKA_RESP_ERR_NO_ERROR
        {
            found.push((CStr::from_ptr(name).to_string_lossy().into_owned(), bytes(value, length).unwrap_or_default().to_vec()));
        }
    }
    found
}
